-- Models that could not be asked, by what refused them and why: a fine-tune's refusal is passed on to its grafts.
SELECT task AS verb, reason, list(DISTINCT model) AS models
FROM raw
WHERE suite = 'refused'
GROUP BY ALL
ORDER BY min(model), verb
