"""Entry point of every mode: python launch.py --config configs/quickstart.py."""

from jaxseg import cli

if __name__ == "__main__":
    cli.run()
