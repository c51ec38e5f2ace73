-- The certificates that a provisioning service has issued. hub is '' for a hub of
-- another server, and no reference: the record outlives it.
CREATE TABLE issued (
	service    {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	serial     {text}    NOT NULL,
	hub        {text}    NOT NULL,
	device_id  {text}    NOT NULL,
	operation  {text}    NOT NULL,
	key_hash   {text}    NOT NULL,
	thumbprint {text}    NOT NULL,
	not_after  {integer} NOT NULL,
	time       {integer} NOT NULL,
	document   {text}    NOT NULL, -- signet.Issued as JSON
	chain      {bytes}   NOT NULL, -- DER, one after the other; last: lists are read without it
	PRIMARY KEY (service, serial)
) {table};

CREATE INDEX issued_device ON issued (service, device_id, time, serial);
CREATE INDEX issued_time ON issued (service, time, serial);
CREATE INDEX issued_hub ON issued (hub, time, serial);
CREATE INDEX issued_hub_device ON issued (hub, device_id, time, serial);
CREATE INDEX issued_thumbprint ON issued (hub, thumbprint);
CREATE INDEX issued_not_after ON issued (not_after);

-- Whose the keys in them are: no two devices of a service share one.
CREATE TABLE issued_key (
	service   {text} NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	key_hash  {text} NOT NULL,
	device_id {text} NOT NULL,
	PRIMARY KEY (service, key_hash)
) {table};

CREATE INDEX issued_key_device ON issued_key (service, device_id);
