"""``python -m apps.evaluate``, for ``accelerate launch``."""

from apps.evaluate.cli import app

if __name__ == "__main__":
    app()
