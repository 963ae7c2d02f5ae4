-- Models that could not be evaluated, by the step that refused them and the reason. A fine-tune's refusal applies to its
-- grafts too.
SELECT task AS verb, reason, list(DISTINCT model) AS models
FROM raw
WHERE suite = 'refused'
GROUP BY ALL
ORDER BY min(model), verb
