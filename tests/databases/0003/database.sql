BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE archive (
	kid VARCHAR(255) NOT NULL, 
	"key" VARCHAR(63) NOT NULL, 
	version INTEGER NOT NULL, 
	public_jwk TEXT NOT NULL, 
	recorded_at FLOAT NOT NULL, 
	PRIMARY KEY (kid)
);
INSERT INTO "archive" VALUES('active-1','active',1,'{"crv":"P-256","kty":"EC","x":"z77UqGPEPPCr4QaDDsI-W0YinJfjkFhLKzy_eg_GB5o","y":"LLNmdxyEBKKMkvt9O3jfB5sr7l4Tp3PQFxe7CXpsHJc"}',1798272000.0);
INSERT INTO "archive" VALUES('c_JsfnEzbC4bdRco7Ww1knosuvQpaezmX2fpAi7adlM','waiting',1,'{"crv":"Ed25519","kty":"OKP","x":"dx9F2Yh6yRNay8mI2h87xd9R67l1-Ibvz-nNKjih7gI"}',1798272000.0);
INSERT INTO "archive" VALUES('9hLBcxD-hrOb4pH0_PXa-PLseTu604Y5yUy-mGzBTFc','waiting',2,'{"crv":"Ed25519","kty":"OKP","x":"bnaaLaCGbr2q4yu0gmSH0q6Iuf7_3Qm1HRFhrufGjFg"}',1799999400.0);
INSERT INTO "archive" VALUES('jQ-Fgt7PrUMB2g6Nqpy2dkw4MCMNt6HopusOdSVb6So','grace',1,'{"crv":"Ed25519","kty":"OKP","x":"P4GK8ZDuF9ixWzq2TdOKq6FUbFjFhWcx0FE2sFl7YZ8"}',1798272000.0);
INSERT INTO "archive" VALUES('aUPDdwRin_e1waEGdqKhuexC5JrRTbY0JtATDoS5xvg','grace',2,'{"crv":"Ed25519","kty":"OKP","x":"Iudl-dAeb1FhvEtC2f5z4kTS9KPfld6eTAdEqkC0KzI"}',1799999900.0);
INSERT INTO "archive" VALUES('jzKNJhfy7En_b_G0p24gyRMd7Z9JRkFb_p_hjAQwSDA','after-grace',1,'{"crv":"Ed25519","kty":"OKP","x":"Ejjmvr0iJhBIPZtYSrmqV_dxFXI-QN4KYM2_56rwzmQ"}',1798272000.0);
INSERT INTO "archive" VALUES('IomVxztWkInvSpsbzulGrMD5xAhOjSQfi3u4PIaTuB0','after-grace',2,'{"crv":"Ed25519","kty":"OKP","x":"hL8X72WbgJPQ03O--TiJYzXKRy-FDSSSPO6ad6cZI3w"}',1799999000.0);
INSERT INTO "archive" VALUES('iq_JZVzd9l2g3bXFRb1bIGRDk3PqXpoifBQMA0d4l20','unpublished',1,'{"crv":"Ed25519","kty":"OKP","x":"OJ3dP34P1aZlNpq8Q8BgelOJWYsA2FLJz2juS69WSf8"}',1798272000.0);
INSERT INTO "archive" VALUES('kiKlvBO7nUmA-J8rSi8lrqiRgIbz86_atomvptC898Y','unpublished',2,'{"crv":"Ed25519","kty":"OKP","x":"ynxrCZcr6-_uPAs2JmKBE2peIaNJZlofPWhbsN59kFw"}',1799136000.0);
INSERT INTO "archive" VALUES('J0d-nSWY39FPCZ5nVSB5TlMKSwuE8v8wZ1dTphrSmoI','compromised',1,'{"crv":"Ed25519","kty":"OKP","x":"8rFkZlGj4-AlI0DloxxdB1GtrQTE2oYvgSSCUpWb6XE"}',1798272000.0);
INSERT INTO "archive" VALUES('OddSXtZu92WmNh9MxXbjClOuVO4KnJC186-MxYxCMyY','compromised',2,'{"crv":"Ed25519","kty":"OKP","x":"vNRAcdAT7GPRw0a4i7Uw4q2fM67zj35DeWBBFu5Q8lw"}',1799913600.0);
INSERT INTO "archive" VALUES('I7NJIYwDUCTkxt3uttlVbtI14Mg-d8XOOk-LnEv7nV0','compromised-waiting',1,'{"crv":"Ed25519","kty":"OKP","x":"JwJz6jR4i6urKggwq3PWxqEtMWIQk7Ftv1julOODV2o"}',1798272000.0);
INSERT INTO "archive" VALUES('P4C2nG1-Z0OmSwaIdg3tcpNj_ZYHZe76osuT23KzWAw','compromised-waiting',2,'{"crv":"Ed25519","kty":"OKP","x":"5BBHZisDwjz6ezwfDgEnCG735DMbQ5Oz45BIw59HVjI"}',1799999400.0);
INSERT INTO "archive" VALUES('F3f7cGK98efY44UzUouVobMDBb1uXaTc0AzNmrm_RuI','destroyed',1,'{"crv":"Ed25519","kty":"OKP","x":"cztY3CHzEXuct6HsIZs7_6Zx-3gfiLYnd5wrGbfEsKw"}',1798272000.0);
INSERT INTO "archive" VALUES('-oCtQeedq3DFqoBjmbuaIqT6WyB2jDTTn3ZWOut09Fs','destroyed',2,'{"crv":"Ed25519","kty":"OKP","x":"89wUo9XYF34Jbv4fAQAhtNB4yii7CxQudre4ZZ3hhSo"}',1799136000.0);
INSERT INTO "archive" VALUES('zQy6Q7_FYvspdekkUs8HE_2wGAeXolToB4szmTRlM0Q','being-destroyed',1,'{"crv":"Ed25519","kty":"OKP","x":"IKkg1ieA3NTBScjoYeVtz7nzBLXlCyxy1YumHIPsbvg"}',1798272000.0);
INSERT INTO "archive" VALUES('uY7Eg4JlGcncc90BzwRf20FnCX-4WmsDmkvFUySnW8I','being-destroyed',2,'{"crv":"Ed25519","kty":"OKP","x":"hnlqizwtJja14MgEyIW-PAMDSOxST99Omu_6qNTjbLw"}',1799136000.0);
INSERT INTO "archive" VALUES('LyvPTKN7KfNlYS3Wtxbt2Mk4TfEKhkLsLVETsNr4Wdw','disabled',1,'{"crv":"Ed25519","kty":"OKP","x":"PegdqYrdwKVIXO5leizPBHsxTrjMMJR_4pfVyQJbBV0"}',1798272000.0);
INSERT INTO "archive" VALUES('Xvrfxx3SRTtxuODomxKEyBVfQUpXF7wkyifxY4MQRoE','unlisted',1,'{"crv":"Ed25519","kty":"OKP","x":"7VIaiek4tzo004fdNZKzQktp4pzQiJiN0kjxB5ihTcw"}',1798272000.0);
INSERT INTO "archive" VALUES('oEw3GcgBU6tAQfXVR3URf8uloVtbn57Zpz6CP0v_xOU','keyd-audit',1,'{"crv":"Ed25519","kty":"OKP","x":"agaHa7AASG_yPCpuFZmcBfFBdzq0Vq8fNVDmrcAENRQ"}',1798272000.0);
CREATE TABLE audit_checkpoints (
	id INTEGER NOT NULL, 
	seq BIGINT NOT NULL, 
	head VARCHAR(64) NOT NULL, 
	file TEXT NOT NULL, 
	at FLOAT NOT NULL, replica VARCHAR(64) DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "audit_checkpoints" VALUES(1,10,'1111111111111111111111111111111111111111111111111111111111111111','/var/lib/keyd/audit',1799913601.0,'');
INSERT INTO "audit_checkpoints" VALUES(2,20,'2222222222222222222222222222222222222222222222222222222222222222','/var/lib/keyd/audit',1799913602.0,'');
CREATE TABLE changes (
	id INTEGER NOT NULL, 
	last BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "changes" VALUES(1,49);
CREATE TABLE compatibility (
	id INTEGER NOT NULL, 
	oldest VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "compatibility" VALUES(1,'0003');
CREATE TABLE intents (
	"key" VARCHAR(63) NOT NULL, 
	version INTEGER NOT NULL, 
	backend VARCHAR(64) NOT NULL, owner VARCHAR(64) DEFAULT '' NOT NULL, 
	PRIMARY KEY ("key", version)
);
INSERT INTO "intents" VALUES('active',2,'file','');
INSERT INTO "intents" VALUES('never-made',1,'file','');
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
	disabled_at FLOAT, rotation_period FLOAT, destroy_after FLOAT, paused_at FLOAT, promised_until FLOAT DEFAULT '0' NOT NULL, change BIGINT DEFAULT '1' NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "keys" VALUES('active','ES256','file','["http"]','rfc9421','name-version','["alias"]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,3);
INSERT INTO "keys" VALUES('waiting','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,7);
INSERT INTO "keys" VALUES('grace','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,11);
INSERT INTO "keys" VALUES('after-grace','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,15);
INSERT INTO "keys" VALUES('unpublished','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,19);
INSERT INTO "keys" VALUES('compromised','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,24);
INSERT INTO "keys" VALUES('compromised-waiting','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,29);
INSERT INTO "keys" VALUES('destroyed','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,35);
INSERT INTO "keys" VALUES('being-destroyed','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,40);
INSERT INTO "keys" VALUES('disabled','Ed25519','file','["http"]','rfc9421','thumbprint','[]',1,86400.0,300.0,172800.0,1798272000.0,1799913600.0,NULL,NULL,NULL,0.0,43);
INSERT INTO "keys" VALUES('unlisted','Ed25519','file','["jwt"]','rfc9421','thumbprint','[]',0,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,45);
INSERT INTO "keys" VALUES('keyd-audit','Ed25519','file','["audit"]','rfc9421','thumbprint','[]',0,86400.0,300.0,172800.0,1798272000.0,NULL,NULL,NULL,NULL,0.0,49);
CREATE TABLE replicas (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	started_at FLOAT NOT NULL, 
	seen_at FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
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
CREATE TABLE "versions" (
	"key" VARCHAR(63) NOT NULL, 
	version INTEGER NOT NULL, 
	kid VARCHAR(255) NOT NULL, 
	thumbprint VARCHAR(64) NOT NULL, 
	public_jwk TEXT NOT NULL, 
	handle TEXT, 
	created_at FLOAT NOT NULL, 
	publish_at FLOAT NOT NULL, 
	activate_at FLOAT, 
	deactivate_at FLOAT, 
	sign_until FLOAT, 
	unpublish_at FLOAT, 
	destroyed_at FLOAT, 
	compromised_at FLOAT, 
	compromise_reason TEXT DEFAULT ('') NOT NULL, 
	PRIMARY KEY ("key", version), 
	CONSTRAINT versions_thumbprint_unique UNIQUE (thumbprint), 
	CONSTRAINT versions_kid_unique UNIQUE (kid), 
	FOREIGN KEY("key") REFERENCES keys (name)
);
INSERT INTO "versions" VALUES('active',1,'active-1','kSpfg6dixJHYQEYhqARBrebubFzLDQnJaFzDeG-e5E4','{"crv":"P-256","kty":"EC","x":"z77UqGPEPPCr4QaDDsI-W0YinJfjkFhLKzy_eg_GB5o","y":"LLNmdxyEBKKMkvt9O3jfB5sr7l4Tp3PQFxe7CXpsHJc"}','active.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('waiting',1,'c_JsfnEzbC4bdRco7Ww1knosuvQpaezmX2fpAi7adlM','c_JsfnEzbC4bdRco7Ww1knosuvQpaezmX2fpAi7adlM','{"crv":"Ed25519","kty":"OKP","x":"dx9F2Yh6yRNay8mI2h87xd9R67l1-Ibvz-nNKjih7gI"}','waiting.1.key',1798272000.0,1798272000.0,1798272000.0,1800085800.0,1800086100.0,1800258900.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('waiting',2,'9hLBcxD-hrOb4pH0_PXa-PLseTu604Y5yUy-mGzBTFc','9hLBcxD-hrOb4pH0_PXa-PLseTu604Y5yUy-mGzBTFc','{"crv":"Ed25519","kty":"OKP","x":"bnaaLaCGbr2q4yu0gmSH0q6Iuf7_3Qm1HRFhrufGjFg"}','waiting.2.key',1799999400.0,1799999400.0,1800085800.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('grace',1,'jQ-Fgt7PrUMB2g6Nqpy2dkw4MCMNt6HopusOdSVb6So','jQ-Fgt7PrUMB2g6Nqpy2dkw4MCMNt6HopusOdSVb6So','{"crv":"Ed25519","kty":"OKP","x":"P4GK8ZDuF9ixWzq2TdOKq6FUbFjFhWcx0FE2sFl7YZ8"}','grace.1.key',1798272000.0,1798272000.0,1798272000.0,1799999900.0,1800000200.0,1800173000.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('grace',2,'aUPDdwRin_e1waEGdqKhuexC5JrRTbY0JtATDoS5xvg','aUPDdwRin_e1waEGdqKhuexC5JrRTbY0JtATDoS5xvg','{"crv":"Ed25519","kty":"OKP","x":"Iudl-dAeb1FhvEtC2f5z4kTS9KPfld6eTAdEqkC0KzI"}','grace.2.key',1799999900.0,1799999900.0,1799999900.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('after-grace',1,'jzKNJhfy7En_b_G0p24gyRMd7Z9JRkFb_p_hjAQwSDA','jzKNJhfy7En_b_G0p24gyRMd7Z9JRkFb_p_hjAQwSDA','{"crv":"Ed25519","kty":"OKP","x":"Ejjmvr0iJhBIPZtYSrmqV_dxFXI-QN4KYM2_56rwzmQ"}','after-grace.1.key',1798272000.0,1798272000.0,1798272000.0,1799999000.0,1799999300.0,1800172100.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('after-grace',2,'IomVxztWkInvSpsbzulGrMD5xAhOjSQfi3u4PIaTuB0','IomVxztWkInvSpsbzulGrMD5xAhOjSQfi3u4PIaTuB0','{"crv":"Ed25519","kty":"OKP","x":"hL8X72WbgJPQ03O--TiJYzXKRy-FDSSSPO6ad6cZI3w"}','after-grace.2.key',1799999000.0,1799999000.0,1799999000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('unpublished',1,'iq_JZVzd9l2g3bXFRb1bIGRDk3PqXpoifBQMA0d4l20','iq_JZVzd9l2g3bXFRb1bIGRDk3PqXpoifBQMA0d4l20','{"crv":"Ed25519","kty":"OKP","x":"OJ3dP34P1aZlNpq8Q8BgelOJWYsA2FLJz2juS69WSf8"}','unpublished.1.key',1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,NULL,NULL,'');
INSERT INTO "versions" VALUES('unpublished',2,'kiKlvBO7nUmA-J8rSi8lrqiRgIbz86_atomvptC898Y','kiKlvBO7nUmA-J8rSi8lrqiRgIbz86_atomvptC898Y','{"crv":"Ed25519","kty":"OKP","x":"ynxrCZcr6-_uPAs2JmKBE2peIaNJZlofPWhbsN59kFw"}','unpublished.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised',1,'J0d-nSWY39FPCZ5nVSB5TlMKSwuE8v8wZ1dTphrSmoI','J0d-nSWY39FPCZ5nVSB5TlMKSwuE8v8wZ1dTphrSmoI','{"crv":"Ed25519","kty":"OKP","x":"8rFkZlGj4-AlI0DloxxdB1GtrQTE2oYvgSSCUpWb6XE"}','compromised.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,1799913600.0,'laptop stolen');
INSERT INTO "versions" VALUES('compromised',2,'OddSXtZu92WmNh9MxXbjClOuVO4KnJC186-MxYxCMyY','OddSXtZu92WmNh9MxXbjClOuVO4KnJC186-MxYxCMyY','{"crv":"Ed25519","kty":"OKP","x":"vNRAcdAT7GPRw0a4i7Uw4q2fM67zj35DeWBBFu5Q8lw"}','compromised.2.key',1799913600.0,1799913600.0,1799913600.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised-waiting',1,'I7NJIYwDUCTkxt3uttlVbtI14Mg-d8XOOk-LnEv7nV0','I7NJIYwDUCTkxt3uttlVbtI14Mg-d8XOOk-LnEv7nV0','{"crv":"Ed25519","kty":"OKP","x":"JwJz6jR4i6urKggwq3PWxqEtMWIQk7Ftv1julOODV2o"}','compromised-waiting.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('compromised-waiting',2,'P4C2nG1-Z0OmSwaIdg3tcpNj_ZYHZe76osuT23KzWAw','P4C2nG1-Z0OmSwaIdg3tcpNj_ZYHZe76osuT23KzWAw','{"crv":"Ed25519","kty":"OKP","x":"5BBHZisDwjz6ezwfDgEnCG735DMbQ5Oz45BIw59HVjI"}','compromised-waiting.2.key',1799999400.0,1799999400.0,1800085800.0,NULL,NULL,NULL,NULL,1799999700.0,'copied');
INSERT INTO "versions" VALUES('destroyed',1,'F3f7cGK98efY44UzUouVobMDBb1uXaTc0AzNmrm_RuI','F3f7cGK98efY44UzUouVobMDBb1uXaTc0AzNmrm_RuI','{"crv":"Ed25519","kty":"OKP","x":"cztY3CHzEXuct6HsIZs7_6Zx-3gfiLYnd5wrGbfEsKw"}',NULL,1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,1799913600.0,NULL,'');
INSERT INTO "versions" VALUES('destroyed',2,'-oCtQeedq3DFqoBjmbuaIqT6WyB2jDTTn3ZWOut09Fs','-oCtQeedq3DFqoBjmbuaIqT6WyB2jDTTn3ZWOut09Fs','{"crv":"Ed25519","kty":"OKP","x":"89wUo9XYF34Jbv4fAQAhtNB4yii7CxQudre4ZZ3hhSo"}','destroyed.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('being-destroyed',1,'zQy6Q7_FYvspdekkUs8HE_2wGAeXolToB4szmTRlM0Q','zQy6Q7_FYvspdekkUs8HE_2wGAeXolToB4szmTRlM0Q','{"crv":"Ed25519","kty":"OKP","x":"IKkg1ieA3NTBScjoYeVtz7nzBLXlCyxy1YumHIPsbvg"}','being-destroyed.1.key',1798272000.0,1798272000.0,1798272000.0,1799136000.0,1799136300.0,1799309100.0,1799913600.0,NULL,'');
INSERT INTO "versions" VALUES('being-destroyed',2,'uY7Eg4JlGcncc90BzwRf20FnCX-4WmsDmkvFUySnW8I','uY7Eg4JlGcncc90BzwRf20FnCX-4WmsDmkvFUySnW8I','{"crv":"Ed25519","kty":"OKP","x":"hnlqizwtJja14MgEyIW-PAMDSOxST99Omu_6qNTjbLw"}','being-destroyed.2.key',1799136000.0,1799136000.0,1799136000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('disabled',1,'LyvPTKN7KfNlYS3Wtxbt2Mk4TfEKhkLsLVETsNr4Wdw','LyvPTKN7KfNlYS3Wtxbt2Mk4TfEKhkLsLVETsNr4Wdw','{"crv":"Ed25519","kty":"OKP","x":"PegdqYrdwKVIXO5leizPBHsxTrjMMJR_4pfVyQJbBV0"}','disabled.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('unlisted',1,'Xvrfxx3SRTtxuODomxKEyBVfQUpXF7wkyifxY4MQRoE','Xvrfxx3SRTtxuODomxKEyBVfQUpXF7wkyifxY4MQRoE','{"crv":"Ed25519","kty":"OKP","x":"7VIaiek4tzo004fdNZKzQktp4pzQiJiN0kjxB5ihTcw"}','unlisted.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "versions" VALUES('keyd-audit',1,'oEw3GcgBU6tAQfXVR3URf8uloVtbn57Zpz6CP0v_xOU','oEw3GcgBU6tAQfXVR3URf8uloVtbn57Zpz6CP0v_xOU','{"crv":"Ed25519","kty":"OKP","x":"agaHa7AASG_yPCpuFZmcBfFBdzq0Vq8fNVDmrcAENRQ"}','keyd-audit.1.key',1798272000.0,1798272000.0,1798272000.0,NULL,NULL,NULL,NULL,NULL,'');
CREATE TRIGGER archive_refuses_update BEFORE UPDATE ON archive BEGIN SELECT RAISE(ABORT, 'the archive of public keys is only added to'); END;
CREATE TRIGGER archive_refuses_delete BEFORE DELETE ON archive BEGIN SELECT RAISE(ABORT, 'the archive of public keys is only added to'); END;
CREATE TRIGGER archive_refuses_replace BEFORE INSERT ON archive WHEN EXISTS (SELECT 1 FROM archive WHERE kid = NEW.kid) BEGIN SELECT RAISE(ABORT, 'the archive of public keys is only added to'); END;
COMMIT;
