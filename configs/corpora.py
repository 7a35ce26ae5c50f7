"""Blocks of text to pretrain on: one corpus, or a mixture of several."""


def stdlib_data(seq_len: int, batch_size: int) -> dict:
    """The data block of the corpus that every machine has: Python's own standard library."""
    return dict(
        source="python_stdlib",  # Of documents: text, jsonl, files, tfds:NAME, ...; docs/data.md.
        train="",  # Globs of training files, or a split of the source.
        validation="",  # Globs of validation files, or a split of the source.
        field="",  # Field of a record that holds its text; "" where documents are files.
        seq_len=seq_len,  # Tokens a row.
        batch_size=batch_size,  # Rows a step, over all devices, hosts and micro-batches.
        batch_size_per_device=0,  # Times the number of devices, in place of batch_size; 0: not.
        add_bos=True,  # Whether documents start with the tokenizer's token for it.
        add_eos=True,  # Whether documents end with the tokenizer's token for it.
        on_error="raise",  # For what cannot be read: raise, or skip, which leaves out and counts.
        max_document_bytes=1_000_000_000,  # Longest document, line or value, unpacked.
        engine=engine(),
    )


def engine() -> dict:
    """The data.engine block, of what tokenizes; it changes no byte."""
    return dict(
        runner="",  # Of Apache Beam, as FlinkRunner, see docs/beam.md; "": this machine alone.
        options=(),  # Of Beam, each as --NAME=VALUE.
    )


def text_data(seq_len: int, batch_size: int, sources: str) -> dict:
    """That of `stdlib_data`, or of a mixture of `sources`, "en+zh", which are to be filled in."""
    data = stdlib_data(seq_len, batch_size)
    if not sources:
        return data
    by_name = {name: source() for name in names("sources", sources)}
    return data | dict(source="", mixture=mixture(), sources=by_name)


def names(key: str, text: str) -> list[str]:
    """Cuts "en+zh", of the argument `key`, into names."""
    found = text.split("+")
    if "" in found or len({*found}) < len(found):
        raise ValueError(f"{key}={text} must be different names with + between them")
    return found


def mixture() -> dict:
    """The data.mixture block: sources in proportion to their weights, all the way."""
    return dict(
        temperature=0.0,  # T: weights times tokens^(1/T), so 1 goes by size; 0: weights alone.
        stages=(),  # Of (share of the run's steps, weights by source from there on), in order.
    )


def source(weight: float = 1.0, **place) -> dict:
    """One entry of the data.sources block; `place` says where its text is."""
    return dict(
        source="",  # Of documents: text, jsonl, files, tfds:NAME, ...; docs/data.md.
        train="",  # Globs of training files, or a split of the source.
        validation="",  # Globs of validation files, or a split of the source.
        field="",  # Field of a record that holds its text; "" where documents are files.
        weight=weight,  # Rows of this source are this as a share of all weights; 0: none.
        max_epochs=0.0,  # How often a run may see each of its rows, or it is refused; 0: no limit.
    ) | dict(place)
