-- Every act on trust and of administration: see package audit. It belongs to no
-- hub, and stays when one goes.
CREATE TABLE audit_entry (
	number {integer} NOT NULL PRIMARY KEY,
	hub    {text}    NOT NULL, -- '' of the server
	entry  {bytes}   NOT NULL  -- audit.Entry as JSON: what is hashed
) {table};

CREATE INDEX audit_entry_hub ON audit_entry (hub, number);

-- Tiles of 256 hashes of the Merkle tree above the entries.
CREATE TABLE audit_tile (
	level  {integer} NOT NULL,
	number {integer} NOT NULL,
	hashes {bytes}   NOT NULL,
	PRIMARY KEY (level, number)
) {table};
