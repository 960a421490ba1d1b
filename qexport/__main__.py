"""The console script and ``python -m qexport``."""

import signal


def main() -> None:
    """Import the command line and run it; Ctrl-C during the import ends the process as any signal does, without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from qexport import cli

    signal.signal(signal.SIGINT, before)
    cli.main()


if __name__ == "__main__":
    main()
