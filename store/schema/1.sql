-- Every key begins with the hub's name. {text} compares by bytes, times are
-- microseconds since 1970 in UTC, flags are 0 or 1.

CREATE TABLE hub (
	name      {text}    NOT NULL PRIMARY KEY,
	host_name {text}    NOT NULL UNIQUE,
	created   {integer} NOT NULL
) {table};

CREATE TABLE policy (
	hub           {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	position      {integer} NOT NULL,
	name          {text}    NOT NULL,
	primary_key   {text}    NOT NULL,
	secondary_key {text}    NOT NULL,
	rights        {integer} NOT NULL,
	PRIMARY KEY (hub, position)
) {table};

CREATE TABLE identity (
	hub                  {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	device_id            {text}    NOT NULL,
	module_id            {text}    NOT NULL, -- '' for a device
	generation_id        {text}    NOT NULL,
	etag                 {text}    NOT NULL,
	status               {text}    NOT NULL,
	status_reason        {text}    NOT NULL,
	status_updated       {integer} NOT NULL,
	created              {integer} NOT NULL,
	auth_type            {text}    NOT NULL,
	primary_key          {text}    NOT NULL,
	secondary_key        {text}    NOT NULL,
	primary_thumbprint   {text}    NOT NULL,
	secondary_thumbprint {text}    NOT NULL,
	edge_device          {integer} NOT NULL,
	-- A module has a device, and goes with it: '' names the device's own row, and
	-- NULL, for a device, refers to nothing.
	device_row {text} GENERATED ALWAYS AS (CASE WHEN module_id <> '' THEN '' END) STORED,
	PRIMARY KEY (hub, device_id, module_id),
	FOREIGN KEY (hub, device_id, device_row) REFERENCES identity (hub, device_id, module_id) ON DELETE CASCADE
) {table};

CREATE TABLE ca_certificate (
	hub               {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	name_folded       {text}    NOT NULL, -- in lower case, to compare by
	name              {text}    NOT NULL, -- as first given
	der               {bytes}   NOT NULL,
	subject           {text}    NOT NULL,
	thumbprint        {text}    NOT NULL,
	not_before        {integer} NOT NULL,
	not_after         {integer} NOT NULL,
	verified          {integer} NOT NULL,
	verification_code {text}    NOT NULL,
	etag              {text}    NOT NULL,
	created           {integer} NOT NULL,
	updated           {integer} NOT NULL,
	PRIMARY KEY (hub, name_folded)
) {table};

-- A refusal that could not be put to a hub has the hub '', so there is no
-- reference.
CREATE TABLE verdict (
	hub         {text}    NOT NULL,
	tracking_id {text}    NOT NULL,
	device_id   {text}    NOT NULL,
	time        {integer} NOT NULL,
	document    {text}    NOT NULL, -- signet.Verdict as JSON
	PRIMARY KEY (hub, tracking_id)
) {table};

CREATE INDEX verdict_time ON verdict (hub, time, tracking_id);
CREATE INDEX verdict_device ON verdict (hub, device_id, time, tracking_id);
