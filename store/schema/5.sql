-- What becomes of sessions whose certificates expire: signet.ExpiryPolicy.
ALTER TABLE hub ADD COLUMN at_expiry {text} NOT NULL DEFAULT 'keep';
