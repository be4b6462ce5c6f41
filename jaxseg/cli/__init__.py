"""The command line: one module a mode; flags live in `main` and nowhere else."""


def run() -> None:
    """Runs the mode that the command line asks for; exit status 0 done, 2 wrong input, 1 a fault of ours."""
    from jaxseg.cli import main

    main.run()
