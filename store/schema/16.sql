-- What looks as if a key or a certificate were in two hands.
CREATE TABLE clone (
	hub      {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	id       {text}    NOT NULL,
	last     {integer} NOT NULL,
	told     {integer} NOT NULL,
	document {text}    NOT NULL, -- signet.Clone as JSON
	PRIMARY KEY (hub, id)
) {table};

CREATE INDEX clone_last ON clone (hub, last, id);

-- What a hub does about it, where that was said: signet.ClonePolicy.
CREATE TABLE clone_policy (
	hub    {text} NOT NULL PRIMARY KEY REFERENCES hub (name) ON DELETE CASCADE,
	policy {text} NOT NULL
) {table};
