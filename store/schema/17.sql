-- What OCSP responders said last of certificates.
CREATE TABLE ocsp_answer (
	hub        {text} NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	issuer_key {text} NOT NULL,
	serial     {text} NOT NULL,
	document   {text} NOT NULL, -- signet.OCSPAnswer as JSON
	PRIMARY KEY (hub, issuer_key, serial)
) {table};
