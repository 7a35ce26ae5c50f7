r"""Which documents of some files are worth training on, and what becomes of all others?

Command:   python launch.py --config=configs/curate.py --workdir=runs/corpus
           python launch.py --config=configs/curate.py:inputs=web+books --workdir=runs/corpus \
               --config.inputs.web.path='crawl/*.jsonl.gz' --config.inputs.books.path='books/*.txt'
           python launch.py --config.data.source=curated:runs/corpus --workdir=runs/a   # trains
Hardware:  any; one process for each core.

Without `inputs` it curates the standard library of the running Python. docs/curation.md says what
each stage does.
"""

import ml_collections

from configs import common, corpora


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`inputs` names the inputs, with + between them, each of which gets a block of its own.

    `engine` is local, or beam.
    """
    arg = common.parse_arg(arg, inputs="", engine="local")
    config = common.new("curate")
    if arg.inputs:
        config.inputs = {name: _input("auto") for name in corpora.names("inputs", arg.inputs)}
    else:
        config.inputs = {"python_stdlib": _input("python_stdlib")}
    config.extract = dict(
        max_seconds=10.0,  # Processor time that the main text of a page of HTML may take.
        max_memory_bytes=2_000_000_000,  # Memory that it may take.
    )
    config.repair = dict(
        encoding=True,  # Decodes again what was decoded by a wrong encoding.
        controls=True,  # Takes out control characters; lines end in a line feed.
    )
    config.private = dict(
        kinds=("key", "email", "iban", "id", "card", "ip", "phone"),  # What is masked; (): nothing.
    )
    config.language = dict(
        keep=(),  # Languages to keep, as en,zh; und is what none can be told of; (): all.
    )
    config.quality = dict(
        thresholds="published" if arg.inputs else "none",  # Or FILE.json, or none; by language.
        trusted="",  # Globs of good text, which sets the thresholds of its languages; "": none.
        field="text",  # Of the text in records of trusted.
        max_drop=0.01,  # Share of the trusted text that thresholds may drop.
    )
    config.duplicates = dict(
        near=True,  # Whether near-duplicates are dropped, too, and not equal texts alone.
        ngram=5,  # Words, or characters where there are no spaces, of what texts are compared by.
        num_bands=16,  # Of MinHash: documents that share none are never compared.
        band_rows=6,  # Hashes of a band.
        threshold=0.8,  # Similarity to a kept document from which on one is dropped.
        measure="jaccard",  # jaccard, or containment, by which excerpts are duplicates, too.
        max_compared=32,  # Kept documents of a bucket that others are compared with.
    )
    config.decontaminate = dict(
        files="",  # Globs of records of evaluations, that no document should hold; "": none.
        fields="",  # Of these, with texts, with commas between; "": all texts.
        tasks="",  # Names of lm_eval's tasks, with commas between; "": none.
        include_path="",  # Folder of tasks of one's own, as lm_eval has them; "": none.
        default_tasks=True,  # Whether lm_eval's own tasks are known too.
        action="drop",  # drop documents that hold an item, or cut the paragraphs that do.
        words=5,  # Of an n-gram of items whose script has spaces.
        characters=8,  # Of an n-gram of items whose script has none.
        min_units=4,  # An item of fewer words or characters is not looked for.
        coverage=0.5,  # Share of an item's n-grams that a document must have to hold it.
        max_documents=10,  # N-grams in more, and in more than max_share, do not count.
        max_share=1e-4,  # Of all documents; see max_documents.
    )
    config.output = dict(
        validation_share=0.05,  # Share of documents that are held out, chosen by their hashes.
    )
    config.show_document = ""  # Only says what became of this one: an id, or where it stood.
    config.engine = _engine(arg.engine)
    return config


def _input(kind: str) -> dict:
    """The inputs block, of one input."""
    return dict(
        kind=kind,  # Of docs/curation.md, such as jsonl or warc; auto: by the suffix of each file.
        path="",  # Globs with commas between; of tfds and hf, NAME@SPLIT; of curated, a workdir.
        field="text",  # Of the text, in kinds whose records have fields.
        licence="PSF-2.0" if kind == "python_stdlib" else "",  # Of what it holds, for the card.
        max_document_bytes=10_000_000,  # Longest document; longer ones are counted as too_long.
    )


def _engine(kind: str) -> dict:
    """The engine block. None of it but num_shards changes a byte of what is written."""
    engine = dict(
        kind=kind,  # local: this machine; beam: Apache Beam, see docs/beam.md.
        num_shards=16,  # Files of the corpus; take one for each 100 MB of text or so.
        sort_bytes=64_000_000,  # Of text that each process sorts in memory.
    )
    others = {
        "local": dict(
            num_workers=0,  # Processes; 0: one for each core.
        ),
        "beam": dict(
            runner="FnApiRunner",  # Of Beam: this one is in Python; FlinkRunner, SparkRunner, ...
            options=("--direct_running_mode=in_memory",),  # Of Beam, each as --NAME=VALUE.
        ),
    }
    return engine | common.choose("engine", kind, others)
