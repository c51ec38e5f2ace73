-- The twin of an identity; one without a row is one that was never written.
CREATE TABLE twin (
	hub               {text}    NOT NULL,
	device_id         {text}    NOT NULL,
	module_id         {text}    NOT NULL,
	version           {integer} NOT NULL,
	etag              {text}    NOT NULL,
	tags              {text}    NOT NULL, -- these are JSON objects
	desired           {text}    NOT NULL,
	desired_metadata  {text}    NOT NULL,
	desired_version   {integer} NOT NULL,
	reported          {text}    NOT NULL,
	reported_metadata {text}    NOT NULL,
	reported_version  {integer} NOT NULL,
	PRIMARY KEY (hub, device_id, module_id),
	FOREIGN KEY (hub, device_id, module_id) REFERENCES identity (hub, device_id, module_id) ON DELETE CASCADE
) {table};
