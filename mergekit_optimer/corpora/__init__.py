"""Text and sample sources of a recipe -> documents and rows, with fingerprints. Downloads nothing itself."""

from mergekit_optimer.corpora.corpus import Corpus, check_disjoint, read_corpus, read_rows, text_hashes

__all__ = ["Corpus", "check_disjoint", "read_corpus", "read_rows", "text_hashes"]
