"""The SAEs that sae_lens knows by name."""

import difflib


def nearest_releases(name: str, n: int = 3) -> list[str]:
    """Releases of sae_lens with the first of their ids, as `release:id`: those of that repository, then like names."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    same = [release for release, entry in known.items() if name in (release, entry.repo_id)]
    like = difflib.get_close_matches(name.rpartition("/")[2], known, n=n, cutoff=0.5)
    return [f"{release}:{next(iter(known[release].saes_map))}" for release in dict.fromkeys([*same, *like])][:n]
