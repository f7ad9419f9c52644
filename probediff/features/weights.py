"""Where the weights of a feature network are: in the hub's cache on this machine, or else on the hub."""

from pathlib import Path

from probediff.exceptions import FeatureLoadError

HUB_PROBE_TIMEOUT_SEC = 5.0


def hub_file(repository: str | None, file: str | None, usual_files: tuple[str, ...]) -> Path:
    """Path of a file of weights from the hub's cache or else from the hub.

    Args:
        repository: id on the hub; None or empty where there is none.
        file: its name; None or empty for the first of ``usual_files`` there is.
        usual_files: names to try, best first.

    Raises:
        FeatureLoadError: The hub has no such file.
    """
    from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    if not repository:
        raise FeatureLoadError("no weights for it are on the hub")
    file_names = (file,) if file else usual_files
    for name in file_names:
        if isinstance(path := try_to_load_from_cache(repository, name), str):
            return Path(path)
    if not constants.HF_HUB_OFFLINE:
        # The hub's client would try again for most of a minute before it says that there is no network.
        get_session().head(constants.ENDPOINT, timeout=HUB_PROBE_TIMEOUT_SEC)
    for name in file_names:
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
    raise FeatureLoadError(f"{repository} on the hub holds none of {', '.join(file_names)}")
