BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
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
INSERT INTO "versions" VALUES('active',1,'active-1','KyhTI1piB6W4Ux5hVlT1pQtCA3A2AZc3IWcgMwCQkOI','{"crv":"P-256","kty":"EC","x":"5534ozFc2WkoJQUU8BZO92tWz6PVB04oGr5hrl5vu4I","y":"itSwHJ27DHDfZ2rLi-6RwtRTcL7V3Rlt3s4io4mF-10"}','active.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('waiting',1,'wwkNydXeQGjndXm-4UAv7OAgtrqsavOT9mcfR2dk1Zg','wwkNydXeQGjndXm-4UAv7OAgtrqsavOT9mcfR2dk1Zg','{"crv":"Ed25519","kty":"OKP","x":"_0jJKnd5KVa617MRz-F12RPa-qoLVudpAEEBD-jrtEw"}','waiting.1.key',1798272000.0,1798272000.0,1798272000.0,1800085800.0,1800086100.0,1800258900.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('waiting',2,'PVU_jxXciqsO-Aco2gmhb_68GDsxAMNgVEHLLaItK9Q','PVU_jxXciqsO-Aco2gmhb_68GDsxAMNgVEHLLaItK9Q','{"crv":"Ed25519","kty":"OKP","x":"wjD88opq--6pxlmNcmmJP3LwBu3WWsgusdEVheLGLEM"}','waiting.2.key',1799999400.0,1799999400.0,1800085800.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('grace',1,'myNC8z7fDRYI5LjEOvmQHX0qO6KncePE_oVvVqoLLqE','myNC8z7fDRYI5LjEOvmQHX0qO6KncePE_oVvVqoLLqE','{"crv":"Ed25519","kty":"OKP","x":"xqlf-bpndmPvKR2IAlAAHEhba43a8_s0c3lPkUdHU7Q"}','grace.1.key',1798272000.0,1798272000.0,1798272000.0,1799999900.0,1800000200.0,1800173000.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('grace',2,'R-muZJ2Xh3n3Zp4RSwGiipiRZRMaymTWn_Gvkc-dqZY','R-muZJ2Xh3n3Zp4RSwGiipiRZRMaymTWn_Gvkc-dqZY','{"crv":"Ed25519","kty":"OKP","x":"BzhXxVG1PgUUYiuWQWKVpJg6WiRtb-2KY-vy2caB_Hc"}','grace.2.key',1799999900.0,1799999900.0,1799999900.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('after-grace',1,'OeexNxHN47Sc2jEY-d2gMKjttjZSgjr17TF4E4bj3ic','OeexNxHN47Sc2jEY-d2gMKjttjZSgjr17TF4E4bj3ic','{"crv":"Ed25519","kty":"OKP","x":"7yL9hM-ILDnAIk2d66x_lj9OV_CTZ_dikv4QmGIud5I"}','after-grace.1.key',1798272000.0,1798272000.0,1798272000.0,1799999000.0,1799999300.0,1800172100.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('after-grace',2,'H-rmuDgkMo3Uzef0bipDuC4IxDck-jf2QNixvGrKB3Y','H-rmuDgkMo3Uzef0bipDuC4IxDck-jf2QNixvGrKB3Y','{"crv":"Ed25519","kty":"OKP","x":"PlLO43ZWIYk08HUUOOt5fP-at8edpP5kthRE2yOZiak"}','after-grace.2.key',1799999000.0,1799999000.0,1799999000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('unpublished',1,'lISX63ccbAz17zGX7B4IwX5LVVRuLqS3SP9P-wpJyu8','lISX63ccbAz17zGX7B4IwX5LVVRuLqS3SP9P-wpJyu8','{"crv":"Ed25519","kty":"OKP","x":"mfBigu6j7B4pIiGhWf_oXYTMQKeZV4bcuVLZa6helBo"}','unpublished.1.key',1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('unpublished',2,'aCezGPE_b4_TKDJS_Y8CvqHC6gICQObiDxFnRAeYrE0','aCezGPE_b4_TKDJS_Y8CvqHC6gICQObiDxFnRAeYrE0','{"crv":"Ed25519","kty":"OKP","x":"K99q9Gvl6aEeUByx-YIvw4OBzXXPQ12cqs7loGUjt24"}','unpublished.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised',1,'XtaqsQOQSFkNbS9Q5i7xFmoo46FDeY2q4F8QFgfdvlQ','XtaqsQOQSFkNbS9Q5i7xFmoo46FDeY2q4F8QFgfdvlQ','{"crv":"Ed25519","kty":"OKP","x":"WPljksRuLNJ5xYztKLs8NnUarel7CZbWtf4Dlz18uAY"}','compromised.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,1799913600.0,'laptop stolen');
INSERT INTO "versions" VALUES('compromised',2,'Q5Dp0lyGepqUBDzD5ovNouYudJwYj1Xr5Uo0qOYJqLA','Q5Dp0lyGepqUBDzD5ovNouYudJwYj1Xr5Uo0qOYJqLA','{"crv":"Ed25519","kty":"OKP","x":"IkaVplt8dZ3E9kd50eySNbJh3zV3Ulgqkm6HuopnrIc"}','compromised.2.key',1799913600.0,1799913600.0,1799913600.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised-waiting',1,'lKO-Tg4stb_6mjasBrZgX58Wt_clD_rn8FK2EbPWrvs','lKO-Tg4stb_6mjasBrZgX58Wt_clD_rn8FK2EbPWrvs','{"crv":"Ed25519","kty":"OKP","x":"zdqKHmqFwy8J0W6X59-JzA41jto5V1Jk4wKknJuzoNg"}','compromised-waiting.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised-waiting',2,'kPutdpo8mTLi_e3oqfK5_MoBEtO1b4LvsEiGQvMOY7I','kPutdpo8mTLi_e3oqfK5_MoBEtO1b4LvsEiGQvMOY7I','{"crv":"Ed25519","kty":"OKP","x":"vwnG1nwrs2XOK-JGzy8-Ks0z3GCz4WeH0Fi4vZj_dW4"}','compromised-waiting.2.key',1799999400.0,1799999400.0,1800085800.0,NULL,NULL,NULL,NULL,1799999700.0,'copied');
INSERT INTO "versions" VALUES('destroyed',1,'NCdw55OT26wXnHDbNyO8nBED1V8Tk8wVykNzm2C8rEk','NCdw55OT26wXnHDbNyO8nBED1V8Tk8wVykNzm2C8rEk','{"crv":"Ed25519","kty":"OKP","x":"VFwKa1-1qU4wfj3jUGye_byHHIQSvGV0NgIMitS2SPI"}',NULL,1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,1799913600.0,NULL,'');
INSERT INTO "versions" VALUES('destroyed',2,'3AVe59WXHgWrZce0IP37s6ReE5CRqXIqyO3Z98HwMnk','3AVe59WXHgWrZce0IP37s6ReE5CRqXIqyO3Z98HwMnk','{"crv":"Ed25519","kty":"OKP","x":"25GgOwge4Swi_KjLW8czXzCMw7-uz1YRS-5PgfWhylc"}','destroyed.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('being-destroyed',1,'qmTtA4vJ1gGaoenMDcKEKDsLdQMJdjCZNditIhguvxw','qmTtA4vJ1gGaoenMDcKEKDsLdQMJdjCZNditIhguvxw','{"crv":"Ed25519","kty":"OKP","x":"yL88bMtJGviTPgiHk8mZYA87k99aR8xfS2tjbSRPGnI"}','being-destroyed.1.key',1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,1799913600.0,NULL,'');
INSERT INTO "versions" VALUES('being-destroyed',2,'uRRqf7lP_U7C8SCjZOSRnPI7PPYnUWqeNyWj_4hQR_E','uRRqf7lP_U7C8SCjZOSRnPI7PPYnUWqeNyWj_4hQR_E','{"crv":"Ed25519","kty":"OKP","x":"0JwSpNtONHGaZNkpM-Tr1IGqUR24KcPyK_ludGcF3Dk"}','being-destroyed.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('disabled',1,'qq-cxcAnUOg-5f3u924mZ3wVlZnWS7u7b74K74ih-E0','qq-cxcAnUOg-5f3u924mZ3wVlZnWS7u7b74K74ih-E0','{"crv":"Ed25519","kty":"OKP","x":"-6hUIjyotK5wTvD8uRPbvpKB25q_4lBuNSyY6Qpenqs"}','disabled.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('unlisted',1,'DMkJ7pgJAONtUtGOQHXRTxq4EZOYUb9ry4cEBQhshfQ','DMkJ7pgJAONtUtGOQHXRTxq4EZOYUb9ry4cEBQhshfQ','{"crv":"Ed25519","kty":"OKP","x":"Drt3s-pz7OCCM6_z-BFxtrI5_vgIz58AJ6p-cZhY4jg"}','unlisted.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
COMMIT;
