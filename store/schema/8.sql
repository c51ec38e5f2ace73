-- What a hub tells on its message log besides telemetry: signet.EventSources.
ALTER TABLE hub ADD COLUMN events {integer} NOT NULL DEFAULT 0;

-- Events that are not on the message log yet. They come in the transaction of
-- what they tell of, and outlive the identity that they are about.
CREATE TABLE event (
	hub       {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	sequence  {integer} NOT NULL,
	device_id {text}    NOT NULL,
	module_id {text}    NOT NULL,
	source    {text}    NOT NULL,
	operation {text}    NOT NULL,
	schema    {text}    NOT NULL,
	time      {integer} NOT NULL,
	body      {text}    NOT NULL, -- JSON
	PRIMARY KEY (hub, sequence)
) {table};

-- Where the messages of a hub are sent on to, and how far that has come.
CREATE TABLE route (
	hub      {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	name     {text}    NOT NULL,
	document {text}    NOT NULL, -- signet.Route as JSON, with its secret
	after_sequence {integer} NOT NULL,
	after_record   {integer} NOT NULL,
	PRIMARY KEY (hub, name)
) {table};

-- What a route could not deliver: places in the message log.
CREATE TABLE dead_letter (
	hub      {text}    NOT NULL,
	route    {text}    NOT NULL,
	id       {text}    NOT NULL,
	first_sequence {integer} NOT NULL,
	first_record   {integer} NOT NULL,
	replay   {integer} NOT NULL, -- it waits to be sent again
	document {text}    NOT NULL, -- signet.DeadLetter as JSON
	PRIMARY KEY (hub, route, id),
	FOREIGN KEY (hub, route) REFERENCES route (hub, name) ON DELETE CASCADE
) {table};
