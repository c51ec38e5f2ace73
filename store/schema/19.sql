-- What the stored session of an identity listens to, by MQTT: see gateway, kept. It
-- stands with the identity because it is read at every connect, as that is.
ALTER TABLE identity ADD COLUMN subscriptions {integer} NOT NULL DEFAULT 0;
