"""How the shipped backbone `nano` and its family were made, from packages to weights.

It trains on English that Debian and Python packages carry: dictionaries (WordNet, GCIDE, FOLDOC, Jargon
File), manuals and handbooks, man pages, fortunes, the Anarchist FAQ, the World English Bible, dialogue and
descriptions of free games, docstrings of the installed Python packages; on short spans cut from these
sentences; and on sentences filled from templates with WordNet's words. No benchmark's text is read before
the last stage, which only evaluates.

    text        fetch the packages (`apt-get download`), cut, filter, mix   -> sentences.txt, text.json
    vocabulary  lower-case WordPiece of 8000 entries                        -> tokenizer/
    teacher     normalised mean-pooled MiniLM-L6 embeddings, in shards      -> teacher/*.npy
    student     4-layer BERT of width 128 distilled from the shards         -> nano.pt, nano.json, nano/
    evaluate    frozen features on task data, the table in the model card   -> evaluation.json, nano/CARD.md

The student's loss on a batch with teacher rows t_i and mapped, normalised student rows s_i = W h_i / |W
h_i| is 1 - mean <s_i, t_i> + w mean (<s_i, s_j> - <t_i, t_j>)^2, i != j (embedding and relational
distillation: Reimers & Gurevych 2020, arXiv 2004.09813; Park et al. 2019, arXiv 1904.05068). Its token
embeddings start from the teacher's sentence embeddings of the single tokens, reduced by PCA. Every stage
keeps what it finished in the work folder and continues there; the student takes the shards that exist, so
it may start while the teacher goes on.

With --family the same stages make the nano family (`tuning.shipped.MEMBERS`): four sizes with nano's own vocabulary, every weight
drawn at random, a schedule that follows the steps, and weights kept on the way of one member -> nano-family/.
"""
