-- The CAs by which devices have authenticated, each under those above it.
CREATE TABLE branch (
	hub        {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	id         {text}    NOT NULL,
	parent     {text}    NOT NULL, -- '' for a trust anchor
	thumbprint {text}    NOT NULL,
	first_seen {integer} NOT NULL,
	refused    {integer} NOT NULL,
	document   {text}    NOT NULL, -- signet.SeenCertificate as JSON
	der        {bytes}   NOT NULL, -- last: trees are read without it
	PRIMARY KEY (hub, id)
) {table};

-- Every branch, with itself and each above it.
CREATE TABLE branch_above (
	hub   {text} NOT NULL,
	above {text} NOT NULL,
	id    {text} NOT NULL,
	PRIMARY KEY (hub, above, id),
	FOREIGN KEY (hub, id) REFERENCES branch (hub, id) ON DELETE CASCADE
) {table};

CREATE INDEX branch_above_id ON branch_above (hub, id);

-- How each identity last authenticated by a certificate.
CREATE TABLE sighting (
	hub        {text}    NOT NULL,
	device_id  {text}    NOT NULL,
	module_id  {text}    NOT NULL, -- '' for a device
	branch     {text},             -- NULL for a certificate known by thumbprint
	thumbprint {text}    NOT NULL,
	key        {text}    NOT NULL,
	issued     {text}    NOT NULL, -- hash of the issuer's key and the serial number, or ''
	serial     {text}    NOT NULL,
	key_type   {text}    NOT NULL,
	not_before {integer} NOT NULL,
	not_after  {integer} NOT NULL,
	first_seen {integer} NOT NULL,
	last_seen  {integer} NOT NULL,
	since      {integer} NOT NULL,
	previous   {text}    NOT NULL,
	early      {integer} NOT NULL,
	subject    {text}    NOT NULL,
	signature  {text}    NOT NULL,
	tls        {text}    NOT NULL,
	remote     {text}    NOT NULL,
	der        {bytes}   NOT NULL, -- last: lists are read without it
	PRIMARY KEY (hub, device_id, module_id),
	FOREIGN KEY (hub, device_id, module_id) REFERENCES identity (hub, device_id, module_id) ON DELETE CASCADE,
	FOREIGN KEY (hub, branch) REFERENCES branch (hub, id)
) {table};

CREATE INDEX sighting_branch ON sighting (hub, branch, device_id, module_id, not_after);
CREATE INDEX sighting_key ON sighting (hub, key, device_id);
CREATE INDEX sighting_issued ON sighting (hub, issued, device_id);
