-- What a CA may vouch for, by its key.
CREATE TABLE scope (
	hub      {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	key      {text}    NOT NULL,
	counts   {integer} NOT NULL, -- whether it bounds the number of devices
	seen     {integer} NOT NULL, -- places given out
	document {text}    NOT NULL, -- signet.Scope as JSON
	PRIMARY KEY (hub, key)
) {table};

-- The devices that have come under a scope that counts them, in their order. A
-- place stays when the identity goes.
CREATE TABLE scope_place (
	hub       {text}    NOT NULL,
	key       {text}    NOT NULL,
	device_id {text}    NOT NULL,
	place     {integer} NOT NULL, -- 1 for the first
	PRIMARY KEY (hub, key, device_id),
	FOREIGN KEY (hub, key) REFERENCES scope (hub, key) ON DELETE CASCADE
) {table};

-- Which certificates of its path a device sent, a bit each; 0 is not known.
ALTER TABLE sighting ADD COLUMN sent {integer} NOT NULL DEFAULT 0;
