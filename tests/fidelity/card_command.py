"""The real CLI: a state becomes a card and a state again, with the peak memory of the encoding process."""
import json
import os
import subprocess
import sys

from fidelity_error import INTERNAL, IO, FidelityError

# A fresh small process in between: ru_maxrss of a child starts at its parent's own size.
MEASURED = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)")


class CardCommand:
    def __init__(self, path, cache_folder):
        self.path = path
        self.environment = {**os.environ, "XDG_CACHE_HOME": cache_folder}  # model digests stay with the copies

    def codecs(self):
        """Names of the codecs that this build has."""
        facts = json.loads(self._run([self.path, "codecs", "--json"]))
        return [codec["codec"] for codec in facts["codecs"]]

    def encode(self, state_path, card_path, model_path, options):
        """Peak resident bytes of `cachecard convert STATE CARD`."""
        command = [self.path, "convert", state_path, card_path, "--model", model_path, *options]
        return int(self._run([sys.executable, "-I", "-S", "-c", MEASURED, *command])) * 1024

    def decode(self, card_path, state_path):
        self._run([self.path, "convert", card_path, state_path])

    def extend(self, base_path, state_path, card_path, model_path, options):
        """What `cachecard extend` says of its work."""
        return json.loads(self._run([self.path, "extend", base_path, state_path, "-o", card_path, "--model", model_path,
                                     "--json", *options]))

    def sections(self, card_path):
        """A card's facts with every frame, as `inspect --sections` has them."""
        return json.loads(self._run([self.path, "inspect", card_path, "--sections", "--json"]))

    def _run(self, command):
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False)
        except OSError as error:
            raise FidelityError(IO, f"{command[0]}: {error.strerror}") from error
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["nothing said"]
            code = done.returncode if done.returncode > 0 else INTERNAL
            raise FidelityError(code, f"cachecard ended with {done.returncode}: {said[-1]}")
        return done.stdout
