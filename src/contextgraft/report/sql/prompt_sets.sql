-- Tasks that have several sets of prompts under one name, for one model or for a fine-tune and its grafts: in the chat
-- template and without, of other wordings, texts or files, which the recipes name by a digest, with other numbers of answers
-- (`wanted`), or with another setting of long_perplexity (`short`, the reference) or repetition (`tokens`). Needles in the chat template are a condition of their own. With the names and files of two sets.
WITH scored AS (
    SELECT *, coalesce(chat, 0) > 0 AS in_chat, CASE WHEN json_valid(recipe) THEN recipe END AS spec
    FROM placed
    WHERE status = 'ok'
),
sets AS (
    SELECT CASE WHEN role IN ('base', 'donor', 'other') THEN role ELSE 'target' END AS family,
           CASE WHEN role = 'base' THEN model_digest ELSE target END AS family_digest,
           suite, task, coalesce(kind, 'single') AS kind, coalesce(haystack, '') AS haystack,
           coalesce(distractors, 0) AS distractors,
           suite = 'needle' AND in_chat AS chat_needles,
           in_chat,
           CASE WHEN suite IN ('needle', 'ruler', 'skill', 'long_skill', 'repetition', 'perplexity', 'long_perplexity', 'divergence')
                THEN nullif(concat_ws(' ', json_extract_string(spec, '$.digest'), json_extract_string(spec, '$.sha256'),
                                      json_extract_string(spec, '$.text_sha256'),
                                      json_extract_string(spec, '$.version'), setting), '') END AS content,
           setting,
           CASE WHEN suite = 'needle' THEN json_array_length(spec, '$.items') - distractors END AS wanted,
           min(model) AS model, min(file) AS file
    FROM scored
    GROUP BY ALL
)
SELECT suite, task,
       arg_min(model, (in_chat, content, wanted)) AS model,
       arg_min(file, (in_chat, content, wanted)) AS file,
       arg_max(model, (in_chat, content, wanted)) AS other_model,
       arg_max(file, (in_chat, content, wanted)) AS other_file,
       count(DISTINCT in_chat) > 1 AS chat_differs,
       count(DISTINCT setting) > 1 AS setting_differs,
       min(setting) AS setting, max(setting) AS other_setting
FROM sets
GROUP BY family, family_digest, suite, task, kind, haystack, distractors, chat_needles
HAVING count(DISTINCT in_chat) > 1 OR count(DISTINCT content) > 1 OR count(DISTINCT wanted) > 1
ORDER BY ALL
