-- Whether two samples are answers to one question of a suite, and whether needles are at one place in one text.
CREATE OR REPLACE MACRO same_question(a, b) AS
    a.suite = b.suite AND a.task = b.task AND a.sample_index = b.sample_index
    AND a.scoring IS NOT DISTINCT FROM b.scoring AND a.seed IS NOT DISTINCT FROM b.seed
    AND (coalesce(a.chat, 0) > 0) = (coalesce(b.chat, 0) > 0)
    AND a.recipe IS NOT DISTINCT FROM b.recipe AND a.answer IS NOT DISTINCT FROM b.answer;
CREATE OR REPLACE MACRO same_place(a, b) AS
    a.kind IS NOT DISTINCT FROM b.kind AND a.haystack IS NOT DISTINCT FROM b.haystack
    AND a.distractors IS NOT DISTINCT FROM b.distractors
    AND a.length IS NOT DISTINCT FROM b.length AND a.depth IS NOT DISTINCT FROM b.depth;
-- Two sides' scores of one prompt, a group of rows: `second` is the second side's mean, or its only score.
CREATE OR REPLACE MACRO prompt_pair(a, b, second) AS {
    'after': avg(a),
    'before': second,
    'both': avg(a * b),
    'wins': count(*) FILTER (a > b),
    'losses': count(*) FILTER (a < b),
    'ties': count(*) FILTER (a = b)
};
-- The counts of such pairs over one text (of a skill: one prompt). `both` to `neither` are the cells of the fourfold table,
-- as products of the scores where answers can be partly right; wins, losses and ties count the pairs of all donors.
-- `graded`: a score, or its mean over donors, is neither 0 nor 1.
CREATE OR REPLACE MACRO fourfold(pair) AS {
    'n': count(*),
    'both': sum(pair."both"),
    'gained': sum(pair.after - pair."both"),
    'lost': sum(pair.before - pair."both"),
    'neither': sum(1 - pair.after - pair.before + pair."both"),
    'wins': sum(pair.wins),
    'losses': sum(pair.losses),
    'ties': sum(pair.ties),
    'graded': bool_or(pair.after NOT IN (0, 1) OR pair.before NOT IN (0, 1))
};
-- The fields of PairCounts over a group of texts: `texts` has n and the sum of the differences of each, in the order of
-- `text`.
CREATE OR REPLACE MACRO pooled(counts, text) AS {
    'n': CAST(sum(counts.n) AS BIGINT),
    'both': sum(counts."both"),
    'gained': sum(counts.gained),
    'lost': sum(counts.lost),
    'neither': sum(counts.neither),
    'wins': CAST(sum(counts.wins) AS BIGINT),
    'losses': CAST(sum(counts.losses) AS BIGINT),
    'ties': CAST(sum(counts.ties) AS BIGINT),
    'graded': bool_or(counts.graded),
    'texts': list([CAST(counts.n AS DOUBLE), counts.gained - counts.lost] ORDER BY text)
};
