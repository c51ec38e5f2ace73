-- What waits for a device, and goes with its identity.
CREATE TABLE command (
	hub            {text}    NOT NULL,
	device_id      {text}    NOT NULL,
	module_id      {text}    NOT NULL, -- '' for a device
	sequence       {integer} NOT NULL,
	generation_id  {text}    NOT NULL,
	message_id     {text}    NOT NULL,
	ack            {text}    NOT NULL,
	enqueued       {integer} NOT NULL,
	expires        {integer} NOT NULL,
	delivery_count {integer} NOT NULL,
	properties     {text}    NOT NULL, -- JSON; with the body last: queues are listed without them
	body           {bytes}   NOT NULL,
	PRIMARY KEY (hub, device_id, module_id, sequence),
	FOREIGN KEY (hub, device_id, module_id) REFERENCES identity (hub, device_id, module_id) ON DELETE CASCADE
) {table};

CREATE INDEX command_expires ON command (expires);

-- What is to be told of commands that have ended.
CREATE TABLE feedback (
	hub           {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	id            {text}    NOT NULL,
	device_id     {text}    NOT NULL,
	module_id     {text}    NOT NULL,
	generation_id {text}    NOT NULL,
	message_id    {text}    NOT NULL,
	outcome       {text}    NOT NULL,
	time          {integer} NOT NULL,
	PRIMARY KEY (hub, id)
) {table};

CREATE INDEX feedback_time ON feedback (hub, time, id);
