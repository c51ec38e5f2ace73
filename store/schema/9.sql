-- A provisioning service is a tenant as a hub is one; of a hub it is ''.
ALTER TABLE hub ADD COLUMN id_scope {text} NOT NULL DEFAULT '';

-- What a provisioning service is told of devices before they come.
CREATE TABLE enrollment (
	hub       {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE, -- the provisioning service
	grouped   {integer} NOT NULL, -- 1 for an enrollment group
	id_folded {text}    NOT NULL, -- in lower case, to compare by
	etag      {text}    NOT NULL,
	document  {text}    NOT NULL, -- signet.Enrollment as JSON
	PRIMARY KEY (hub, grouped, id_folded)
) {table};

-- What a group knows its devices by; of a service, each is one group's.
CREATE TABLE enrollment_signer (
	hub       {text}    NOT NULL,
	signer    {text}    NOT NULL,
	grouped   {integer} NOT NULL,
	id_folded {text}    NOT NULL,
	PRIMARY KEY (hub, signer),
	FOREIGN KEY (hub, grouped, id_folded) REFERENCES enrollment (hub, grouped, id_folded) ON DELETE CASCADE
) {table};

CREATE INDEX enrollment_signer_of ON enrollment_signer (hub, grouped, id_folded);

-- How many enrollments there are: a million are not counted one by one.
CREATE TABLE enrollment_count (
	hub     {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	grouped {integer} NOT NULL,
	number  {integer} NOT NULL,
	PRIMARY KEY (hub, grouped)
) {table};

-- The hubs that a provisioning service may give to devices.
CREATE TABLE linked_hub (
	hub               {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	host_name         {text}    NOT NULL,
	connection_string {text}    NOT NULL, -- '' for a hub of this server
	location          {text}    NOT NULL,
	weight            {integer} NOT NULL,
	allocates         {integer} NOT NULL,
	PRIMARY KEY (hub, host_name)
) {table};
