-- The files the samples came from.
SELECT file, count(*) AS samples FROM raw GROUP BY file ORDER BY file
