"""A proxy under test: its process, its admin port, its access log, and what to say when it dies."""
import asyncio
import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

FIRST_PORT, LAST_PORT = 20000, 32000  # below Linux's ephemeral range: no client socket takes a port away


class Ports:
    """Ports of a run: every number is given out once, so none is met again in TIME_WAIT."""

    def __init__(self):
        self.next = FIRST_PORT + (os.getpid() * 131) % (LAST_PORT - FIRST_PORT)
        self.held = []

    def take(self):
        """A bound socket (kept by backends)."""
        for _ in range(LAST_PORT - FIRST_PORT):
            self.next = FIRST_PORT if self.next >= LAST_PORT else self.next + 1
            sock = socket.socket()
            try:
                sock.bind(("127.0.0.1", self.next))
            except OSError:
                sock.close()
                continue
            sock.setblocking(False)
            return sock
        raise RuntimeError("no free port in the block of the run")

    def number(self):
        """A port number that was free a moment ago (for a listener of the proxy)."""
        sock = self.take()
        sock.close()
        return self.next


class StartFailure(Exception):
    pass


class Sut:
    def __init__(self, name, binary, directory, config, admin_port):
        self.name, self.binary, self.admin_port = name, binary, admin_port
        self.dir = Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.log_path = self.dir / "access.log"
        self.err_path = self.dir / "stderr.log"
        self.process = None

    async def start(self):
        path = self.dir / "bootstrap.json"
        path.write_text(json.dumps(self.config, indent=1))
        self.log_path.touch()
        err = self.err_path.open("ab")
        args = [self.binary, "-c", str(path), "--concurrency", "1", "--file-flush-interval-msec", "50",
                "--drain-strategy", "immediate", "-l", "warning", "--disable-hot-restart"]
        try:
            self.process = await asyncio.create_subprocess_exec(*args, stdout=err, stderr=err, stdin=asyncio.subprocess.DEVNULL)
        except OSError as exc:
            raise StartFailure(f"{self.binary}: {exc}") from None
        finally:
            err.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + 15
        while loop.time() < end:
            if self.process.returncode is not None:
                raise StartFailure(self.death())
            try:
                status, _ = await self.admin("GET", "/ready")
                if status == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.03)
        await self.stop()
        raise StartFailure(f"not ready after 15 s; {self.tail()}")

    def alive(self):
        return self.process is not None and self.process.returncode is None

    async def exited(self, seconds):
        """Give a proxy that refuses connections time to be seen dying."""
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    def death(self):
        return f"died: exit status {self.process.returncode if self.process else '-'}; {self.tail()}"

    def tail(self, lines=6):
        try:
            text = self.err_path.read_text(errors="replace").strip().splitlines()
        except OSError:
            text = []
        return "last log lines: " + " | ".join(line[:400] for line in text[-lines:])

    async def stop(self):
        if not self.alive():
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), 3)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()

    async def admin(self, method, path):
        """(status, body) of one request to the admin port."""
        def ask():
            req = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}", method=method, data=b"" if method == "POST" else None)
            try:
                with urllib.request.urlopen(req, timeout=3) as resp:
                    return resp.status, resp.read().decode("latin-1")
            except urllib.error.HTTPError as exc:
                return exc.code, exc.read().decode("latin-1")
            except urllib.error.URLError as exc:
                raise OSError(exc.reason) from None
        return await asyncio.to_thread(ask)

    async def stats(self, names):
        """Values of the named counters and gauges; None when a name does not exist."""
        _, text = await self.admin("GET", "/stats")
        found = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        return {n: int(found[n]) if found.get(n, "").lstrip("-").isdigit() else None for n in names}

    async def log_lines(self):
        """All access-log lines once the file has been quiet for 0.25 s (bounded)."""
        size, quiet = -1, 0
        for _ in range(60):
            now = self.log_path.stat().st_size
            quiet = quiet + 1 if now == size else 0
            size = now
            if quiet >= 5:
                break
            await asyncio.sleep(0.05)
        out = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                out.append(json.loads(line))
            except ValueError:
                out.append({"client": None, "unparsable": line})
        return out
