-- How the certificates below a CA are asked after: a policy goes with its CA.
CREATE TABLE revocation_policy (
	hub         {text} NOT NULL,
	name_folded {text} NOT NULL,
	document    {text} NOT NULL, -- signet.RevocationPolicy as JSON
	PRIMARY KEY (hub, name_folded),
	FOREIGN KEY (hub, name_folded) REFERENCES ca_certificate (hub, name_folded) ON DELETE CASCADE
) {table};

-- The latest CRL of each issuer.
CREATE TABLE crl (
	hub         {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	id          {text}    NOT NULL,
	this_update {integer} NOT NULL,
	document    {text}    NOT NULL, -- signet.CRL as JSON
	issuer      {bytes}   NOT NULL, -- the certificate that vouches for it, DER
	der         {bytes}   NOT NULL, -- last: the others are read without it
	PRIMARY KEY (hub, id)
) {table};
