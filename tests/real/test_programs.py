"""A programmer's day on the mount: git, a C compiler, a Python environment."""

import subprocess
import zipfile

from tests.real.conftest import MountAbove
from tests.real.root import ENVIRONMENT, inside, run
from tests.support.mounts import Mount, three_times

MAKE_A_REPOSITORY = """
set -e
git config --global user.name Tester
git config --global user.email tester@example.org
git init --quiet --initial-branch=main origin
cd origin
cp -r /usr/lib/python3.11/email /usr/lib/python3.11/json /usr/lib/python3.11/unittest .
git add .
git commit --quiet --message 'three directories'
git mv json data
git rm -r --quiet email/mime
chmod +x unittest/*.py
ln -s data/decoder.py decoder.py
git add .
git commit --quiet --message 'moved, removed, changed'
"""


def test_git_clones_checks_and_packs(root: Mount) -> None:
    run(root, "sh", script=MAKE_A_REPOSITORY)
    run(root, "git", "clone", "--quiet", "--no-local", "origin", "clone")
    run(root, "git", "-C", "clone", "checkout", "--quiet", "HEAD~1")
    run(root, "git", "-C", "clone", "checkout", "--quiet", "main")
    run(root, "git", "-C", "origin", "gc", "--quiet", "--prune=now")
    for when in three_times(root):
        for repository in ("origin", "clone"):
            git = ("git", "-C", repository)
            run(root, *git, "fsck", "--full", "--strict")
            # without a refresh: inode numbers and change times are those that the index remembers
            assert run(root, *git, "diff-files") == "", when
            assert run(root, *git, "status", "--porcelain") == "", when


def test_git_clones_by_hard_links_out_of_a_lower_layer(mount: MountAbove) -> None:
    before = mount()
    run(before, "sh", script=MAKE_A_REPOSITORY)
    before.unmount()
    root = mount(before.changes)
    run(root, "git", "clone", "--quiet", "origin", "clone")
    objects = ("origin/.git/objects", "clone/.git/objects")
    link_counts = ("find", *objects, "-type", "f", "-printf", "%n\n")
    for when in three_times(root):
        assert set(run(root, *link_counts).split()) == {"2"}, when
        for repository in ("origin", "clone"):
            run(root, "git", "-C", repository, "fsck", "--full", "--strict")
            assert run(root, "git", "-C", repository, "status", "--porcelain") == "", when


SHARED_LIBRARY = """
#include <stdio.h>
void greet(const char *name) { printf("hello, %s\\n", name); fflush(stdout); }
"""
PROGRAM = """
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

void greet(const char *name);

/* Greets whom its child wrote into a shared map, read back through a descriptor. */
int main(void) {
    char name[16] = "";
    int file = open("name", O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || ftruncate(file, sizeof name)) return 1;
    char *map = mmap(0, sizeof name, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED) return 2;
    if (fork() == 0) { strcpy(map, WHOM); _exit(0); }
    wait(0);
    if (pread(file, name, sizeof name, 0) != sizeof name) return 3;
    greet(name);
    return getchar() == EOF ? 0 : 4;
}
"""
COMPILE = """
set -e
gcc -Wall -Werror -fPIC -shared -o libgreet.so greet.c
gcc -Wall -Werror -O2 "-DWHOM=\\"$1\\"" -o program program.c -L. -lgreet '-Wl,-rpath,$ORIGIN'
"""


def test_a_c_program_compiles_and_runs_and_is_replaced_while_it_runs(root: Mount) -> None:
    (root.path / "root/greet.c").write_text(SHARED_LIBRARY)
    (root.path / "root/program.c").write_text(PROGRAM)
    run(root, "sh", "-c", COMPILE, "sh", "world")
    with subprocess.Popen(
        inside(root, "./program"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as running:
        assert running.stdout
        assert running.stdout.readline() == b"hello, world\n"
        run(root, "sh", "-c", COMPILE, "sh", "moon")
    assert running.returncode == 0
    for when in three_times(root):
        assert run(root, "./program") == "hello, moon\n", when


def test_a_python_environment_installs_and_runs_a_wheel(root: Mount) -> None:
    run(root, "python3", "-m", "venv", "environment")
    wheel = "greeting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(root.path / "root" / wheel, "w") as packed:
        packed.writestr("greeting.py", "def main():\n    print('hello')\n")
        about = "greeting-1.0.dist-info"
        packed.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n"
        )
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        packed.writestr(f"{about}/entry_points.txt", "[console_scripts]\ngreet = greeting:main\n")
        packed.writestr(f"{about}/RECORD", "")
    run(root, "environment/bin/pip", "install", "--no-index", f"./{wheel}")
    for when in three_times(root):
        assert run(root, "environment/bin/greet") == "hello\n", when
    run(root, "environment/bin/pip", "uninstall", "--yes", "greeting")
    for when in three_times(root):
        assert not list((root.path / "root/environment").rglob("greet*")), when
