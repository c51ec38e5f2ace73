-- What a hub's operators have distrusted. Hashes are hex; '' is none.
CREATE TABLE distrust (
	hub             {text}    NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	id              {text}    NOT NULL,
	kind            {text}    NOT NULL,
	thumbprint      {text}    NOT NULL,
	key_hash        {text}    NOT NULL,
	issuer_key_hash {text}    NOT NULL,
	serial          {text}    NOT NULL,
	subject         {text}    NOT NULL,
	reason          {text}    NOT NULL,
	by_whom         {text}    NOT NULL,
	created         {integer} NOT NULL,
	PRIMARY KEY (hub, id)
) {table};
