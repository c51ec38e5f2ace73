-- What is known of the connections of an identity, written behind them.
CREATE TABLE activity (
	hub                {text}    NOT NULL,
	device_id          {text}    NOT NULL,
	module_id          {text}    NOT NULL,
	connected          {integer} NOT NULL,
	connection_updated {integer} NOT NULL, -- when connected changed
	last_active        {integer} NOT NULL,
	PRIMARY KEY (hub, device_id, module_id),
	FOREIGN KEY (hub, device_id, module_id) REFERENCES identity (hub, device_id, module_id) ON DELETE CASCADE
) {table};

CREATE INDEX activity_connected ON activity (hub, device_id, module_id) WHERE connected = 1;
CREATE INDEX identity_disabled ON identity (hub, device_id, module_id) WHERE status = 'disabled';

-- The texts, numbers and booleans among the tags of twins, by value. It only
-- leads to twins sooner: what a query finds is decided by the twin.
CREATE TABLE twin_tag (
	hub       {text} NOT NULL,
	path      {text} NOT NULL, -- names joined by dots
	value     {text} NOT NULL, -- after a letter for its type
	device_id {text} NOT NULL,
	module_id {text} NOT NULL,
	PRIMARY KEY (hub, path, value, device_id, module_id),
	FOREIGN KEY (hub, device_id, module_id) REFERENCES twin (hub, device_id, module_id) ON DELETE CASCADE
) {table};

CREATE INDEX twin_tag_twin ON twin_tag (hub, device_id, module_id);
