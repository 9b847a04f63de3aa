BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE audit_checkpoints (
	id INTEGER NOT NULL, 
	seq BIGINT NOT NULL, 
	head VARCHAR(64) NOT NULL, 
	file TEXT NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "audit_checkpoints" VALUES(1,10,'1111111111111111111111111111111111111111111111111111111111111111','/var/lib/keyd/audit',1799913601.0);
INSERT INTO "audit_checkpoints" VALUES(2,20,'2222222222222222222222222222222222222222222222222222222222222222','/var/lib/keyd/audit',1799913602.0);
CREATE TABLE intents (
	"key" VARCHAR(63) NOT NULL, 
	version INTEGER NOT NULL, 
	backend VARCHAR(64) NOT NULL, 
	PRIMARY KEY ("key", version)
);
INSERT INTO "intents" VALUES('active',2,'file');
INSERT INTO "intents" VALUES('never-made',1,'file');
CREATE TABLE keys (
	name VARCHAR(63) NOT NULL, 
	algorithm VARCHAR(16) NOT NULL, 
	backend VARCHAR(64) NOT NULL, 
	purposes JSON NOT NULL, 
	profile VARCHAR(64) NOT NULL, 
	kid_format VARCHAR(16) NOT NULL, 
	keyid_aliases JSON NOT NULL, 
	publish BOOLEAN NOT NULL, 
	publish_lead FLOAT NOT NULL, 
	sign_grace FLOAT NOT NULL, 
	retention FLOAT NOT NULL, 
	created_at FLOAT NOT NULL, 
	disabled_at FLOAT, 
	PRIMARY KEY (name)
);
INSERT INTO "keys" VALUES('active','ES256','file','["http"]','rfc9421','name-version','["alias"]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('waiting','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('grace','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('after-grace','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('unpublished','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('compromised','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('compromised-waiting','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('destroyed','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('being-destroyed','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('disabled','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,1799913600.0);
INSERT INTO "keys" VALUES('unlisted','Ed25519','file','["jwt"]','rfc9421','thumbprint','[]',0,86400.0,300.0,172800.0,1798272000.0,NULL);
INSERT INTO "keys" VALUES('keyd-audit','Ed25519','file','["audit"]','rfc9421','thumbprint','[]',0,86400.0,300.0,172800.0,1798272000.0,NULL);
CREATE TABLE version_numbers (
	"key" VARCHAR(63) NOT NULL, 
	last INTEGER NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "version_numbers" VALUES('waiting',2);
INSERT INTO "version_numbers" VALUES('grace',2);
INSERT INTO "version_numbers" VALUES('after-grace',2);
INSERT INTO "version_numbers" VALUES('unpublished',2);
INSERT INTO "version_numbers" VALUES('compromised',2);
INSERT INTO "version_numbers" VALUES('compromised-waiting',2);
INSERT INTO "version_numbers" VALUES('destroyed',2);
INSERT INTO "version_numbers" VALUES('being-destroyed',2);
INSERT INTO "version_numbers" VALUES('disabled',1);
INSERT INTO "version_numbers" VALUES('unlisted',1);
INSERT INTO "version_numbers" VALUES('active',2);
INSERT INTO "version_numbers" VALUES('never-made',1);
INSERT INTO "version_numbers" VALUES('keyd-audit',1);
CREATE TABLE versions (
	"key" VARCHAR(63) NOT NULL, 
	version INTEGER NOT NULL, 
	kid VARCHAR(255) NOT NULL, 
	thumbprint VARCHAR(64) NOT NULL, 
	public_jwk TEXT NOT NULL, 
	handle TEXT, 
	created_at FLOAT NOT NULL, 
	publish_at FLOAT NOT NULL, 
	activate_at FLOAT NOT NULL, 
	deactivate_at FLOAT, 
	sign_until FLOAT, 
	unpublish_at FLOAT, 
	destroyed_at FLOAT, 
	compromised_at FLOAT, 
	compromise_reason TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY ("key", version), 
	CONSTRAINT versions_kid_unique UNIQUE (kid), 
	CONSTRAINT versions_thumbprint_unique UNIQUE (thumbprint), 
	FOREIGN KEY("key") REFERENCES keys (name)
);
INSERT INTO "versions" VALUES('active',1,'active-1','SDvsO1hZkvzZ__TnP-vyioElKhpNQj1kEtIb-4R0ym8','{"crv":"P-256","kty":"EC","x":"VaF5_-pZhvimyEN-oxqDguQYaGRrRi1gRGOgLS11fho","y":"CPYtJGAIijYV_erAcHMJYGLOraDwki0ZBB0BqnSAKWc"}','active.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('waiting',1,'k10dmZPOTvO73mm3mRkIWLN8b0EmqrzgfCVvgd8QkN8','k10dmZPOTvO73mm3mRkIWLN8b0EmqrzgfCVvgd8QkN8','{"crv":"Ed25519","kty":"OKP","x":"IQsyOi_nI00t_JeJbGsKSY5dgq3qL0JU2u2zOSZa6YQ"}','waiting.1.key',1798272000.0,1798272000.0,1798272000.0,1800085800.0,1800086100.0,1800258900.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('waiting',2,'zh1IBurWfffHp1a5u0PXe2un3fvmQuknZXkNX8oOvJQ','zh1IBurWfffHp1a5u0PXe2un3fvmQuknZXkNX8oOvJQ','{"crv":"Ed25519","kty":"OKP","x":"e2KnMARaZBRucdYoUGpRVqk7HF7OSHUwLa596O6QDAs"}','waiting.2.key',1799999400.0,1799999400.0,1800085800.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('grace',1,'Utk63bXs5NfgFO6qovjVuSTXPPduYjpu2W7y3DXRzto','Utk63bXs5NfgFO6qovjVuSTXPPduYjpu2W7y3DXRzto','{"crv":"Ed25519","kty":"OKP","x":"WIhDng1eAY8ZvQxCL-Hn3ey_t8gdiBvfm6BwylaOh4E"}','grace.1.key',1798272000.0,1798272000.0,1798272000.0,1799999900.0,1800000200.0,1800173000.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('grace',2,'ePXJ3duj_VQFleCUTxPSnCt1Fe-AypWz7SOyOROBkK0','ePXJ3duj_VQFleCUTxPSnCt1Fe-AypWz7SOyOROBkK0','{"crv":"Ed25519","kty":"OKP","x":"GgZGZ0eriBclmCwhgi4Mks94LMcj48Hk1yn5BA4JHe0"}','grace.2.key',1799999900.0,1799999900.0,1799999900.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('after-grace',1,'Q-cUoLh7ni4ZOwigDkyUT-klRxtsmnyPayg5ngzkR1c','Q-cUoLh7ni4ZOwigDkyUT-klRxtsmnyPayg5ngzkR1c','{"crv":"Ed25519","kty":"OKP","x":"tw0hakLrW-ci9lQhTHgAhr1URjwajs1k1JoKxQDfIbY"}','after-grace.1.key',1798272000.0,1798272000.0,1798272000.0,1799999000.0,1799999300.0,1800172100.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('after-grace',2,'gn4DS9G8l7uOkVHROPZuAQS_rplTja2xY4S1p6mDLxk','gn4DS9G8l7uOkVHROPZuAQS_rplTja2xY4S1p6mDLxk','{"crv":"Ed25519","kty":"OKP","x":"mKy2D1-pwNlT4oH0XDKmVQK772XDsxgbXPy7X3_4X-E"}','after-grace.2.key',1799999000.0,1799999000.0,1799999000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('unpublished',1,'y5yRmHbZeaSBzNJiIU6W8NLLnhQVCDw1sfGSey4Va-A','y5yRmHbZeaSBzNJiIU6W8NLLnhQVCDw1sfGSey4Va-A','{"crv":"Ed25519","kty":"OKP","x":"6XmODRkWURcTgSiU7bzxO6IykDw__dIxuFUoPOd2Ik0"}','unpublished.1.key',1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('unpublished',2,'EnUa5PioFCl3c3cSF_hti2d1GGJbIWLiivA-CUP75kA','EnUa5PioFCl3c3cSF_hti2d1GGJbIWLiivA-CUP75kA','{"crv":"Ed25519","kty":"OKP","x":"VSIXhTr8jcWBJ_LhLKv8DGjf27cBwqUWNQFfASA1j5I"}','unpublished.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised',1,'P3fz6975_4D5bVo7ukFB07gmNL8wHbuk7r10mmgJWOk','P3fz6975_4D5bVo7ukFB07gmNL8wHbuk7r10mmgJWOk','{"crv":"Ed25519","kty":"OKP","x":"FDz2DiyNxLzbxcbdTFAMSFEe5q1JcVdW4PG3mw9kG3o"}','compromised.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,1799913600.0,'laptop stolen');
INSERT INTO "versions" VALUES('compromised',2,'m8ZQ88Za_8r0rmo7MMgURM2qFQvoCCu-Wg7nHxf9B0U','m8ZQ88Za_8r0rmo7MMgURM2qFQvoCCu-Wg7nHxf9B0U','{"crv":"Ed25519","kty":"OKP","x":"MFwMqd-DFysKo8DvRkNm_nVCbbR1tFefSRu9x6pOB28"}','compromised.2.key',1799913600.0,1799913600.0,1799913600.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised-waiting',1,'lKeVJJVmhaFFasPKGXJXnC4I1cmv4jRccKsNN7R8E2o','lKeVJJVmhaFFasPKGXJXnC4I1cmv4jRccKsNN7R8E2o','{"crv":"Ed25519","kty":"OKP","x":"suOruNtjbqC2P_cxgKfgUBzurBIB1Q3Ablwd2gR1RdU"}','compromised-waiting.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised-waiting',2,'GcpEULK6WSVUT9MPcfRBFh8gLM5fm-3R6eJJMa2iYKU','GcpEULK6WSVUT9MPcfRBFh8gLM5fm-3R6eJJMa2iYKU','{"crv":"Ed25519","kty":"OKP","x":"Sw2VpvUjh5294H9XV2g6RZdDV3ouixfmgER3T6v1ZQ0"}','compromised-waiting.2.key',1799999400.0,1799999400.0,1800085800.0,NULL,NULL,NULL,NULL,1799999700.0,'copied');
INSERT INTO "versions" VALUES('destroyed',1,'ZOAXdarsSaMTz-Njr-wzWu_1BWcwFLjGE2rdRUVEiuM','ZOAXdarsSaMTz-Njr-wzWu_1BWcwFLjGE2rdRUVEiuM','{"crv":"Ed25519","kty":"OKP","x":"O3czBJcpJ2UbGAI3tVE1EhbU_-D_1YNhe6p_KRYpIts"}',NULL,1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,1799913600.0,NULL,'');
INSERT INTO "versions" VALUES('destroyed',2,'sQ4R56en4v5kHJGjhZPmm69awpVmeji7UtWfOlnRX2s','sQ4R56en4v5kHJGjhZPmm69awpVmeji7UtWfOlnRX2s','{"crv":"Ed25519","kty":"OKP","x":"Xs0LEDt4De3LMfCw0a3siUmQMsN33l7cfEdzsPANX_w"}','destroyed.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('being-destroyed',1,'MuCSd7A4HLn9-vAKq4_mVnqjfJlPE5SRL7MzCM-LcQs','MuCSd7A4HLn9-vAKq4_mVnqjfJlPE5SRL7MzCM-LcQs','{"crv":"Ed25519","kty":"OKP","x":"ORyGPaFuF23HPyqdioh8OoliZFSMTgUhOLRoyoh9VNg"}','being-destroyed.1.key',1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,1799913600.0,NULL,'');
INSERT INTO "versions" VALUES('being-destroyed',2,'tVou3XzLEeERbRZtkUrNwdpXZc-w_suS2sTwXM3c3UI','tVou3XzLEeERbRZtkUrNwdpXZc-w_suS2sTwXM3c3UI','{"crv":"Ed25519","kty":"OKP","x":"Vj3V31SqxC0-vs5DxAnbEltxW6blcAkPzRlMVClH_z0"}','being-destroyed.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('disabled',1,'fc8igQe7qWGYHrSAkG80-mk7x8G4bm5mWkdvXSBPQvM','fc8igQe7qWGYHrSAkG80-mk7x8G4bm5mWkdvXSBPQvM','{"crv":"Ed25519","kty":"OKP","x":"5KjwOjsstifLyzQghvMhGGBBeQwSd_zGBUSUsZ7FJEU"}','disabled.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('unlisted',1,'CrQYaR-PFKN43ReykCPcnv1gDEKO3OYG2uMvidexhC8','CrQYaR-PFKN43ReykCPcnv1gDEKO3OYG2uMvidexhC8','{"crv":"Ed25519","kty":"OKP","x":"kFmoqHs4EF2nKyYM6dd0XE_19nAbxKEh0_q4QbA2u0w"}','unlisted.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('keyd-audit',1,'9PmI9zczj3wB6u0XPXz0hINbAOGx2pUiqFcI-JzFwqs','9PmI9zczj3wB6u0XPXz0hINbAOGx2pUiqFcI-JzFwqs','{"crv":"Ed25519","kty":"OKP","x":"NVVL4zq7Fcl92lTJMKOln38_H0NeRkjO7uKv3s9PIVE"}','keyd-audit.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
COMMIT;
