-- Where a branch stands: the IDs of those above it, anchor first, and its own, each
-- with a '/' behind it. So what is below a branch stands together, once, where a row
-- for each pair of the two stood in two orders.
CREATE TABLE branch_path (
	hub  {text} NOT NULL REFERENCES hub (name) ON DELETE CASCADE,
	path {text} NOT NULL,
	id   {text} NOT NULL, -- of the branch, which it goes with
	PRIMARY KEY (hub, path)
) {table};

INSERT INTO branch_path (hub, path, id)
	SELECT a.hub, string_agg(a.above || '/', '' ORDER BY
		(SELECT count(*) FROM branch_above d WHERE d.hub = a.hub AND d.id = a.above)), a.id
	FROM branch_above a GROUP BY a.hub, a.id;

DROP TABLE branch_above;

-- It is in the document.
ALTER TABLE branch DROP COLUMN thumbprint;
