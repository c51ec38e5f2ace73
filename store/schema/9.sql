-- A provisioning service is a tenant as a hub is one; of a hub it is ''.
ALTER TABLE hub ADD COLUMN id_scope {text} NOT NULL DEFAULT '';
