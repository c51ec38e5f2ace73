-- What an operator lets a hub do in a second: signet.Limits as JSON.
ALTER TABLE hub ADD COLUMN limits {text} NOT NULL DEFAULT '{}';
