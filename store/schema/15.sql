-- The devices that have asked a provisioning service for their place.
CREATE TABLE registration (
	hub       {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE, -- the provisioning service
	id_folded {text}    NOT NULL, -- in lower case, to compare by
	grouped   {text}    NOT NULL, -- the folded name of its enrollment group; '' for an individual enrollment
	etag      {text}    NOT NULL,
	begun     {integer} NOT NULL, -- of the operation that is under way; 0 when none is
	document  {text}    NOT NULL, -- signet.Registration as JSON
	work      {text}    NOT NULL, -- provisioning.Work as JSON, while an operation is under way
	PRIMARY KEY (hub, id_folded)
) {table};

CREATE INDEX registration_group ON registration (hub, grouped, id_folded);
CREATE INDEX registration_begun ON registration (begun) WHERE begun > 0;
