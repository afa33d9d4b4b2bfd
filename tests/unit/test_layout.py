"""The rules of CONTRIBUTING.md that no linter knows: sizes, the map against the tree, where `unsafe` may stand.

In:     the files git knows. Limits: the constants below.
"""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support import rust_scan

ROOT = Path(__file__).resolve().parents[2]

FILE_LINES_LIMIT = 500
FUNCTION_LINES_LIMIT = 60
PARAMETERS_LIMIT = 5
FOLDER_FILES_LIMIT = 16

# What may be larger, each with its reason. Fewer than five.
EXCEPTIONS = {
    "native/engine/src": "a file for each stage, in the order of the data in lib.rs; folders would hide the order",
}


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(sorted(Path(name) for name in set(listed.split("\0")) if name and (ROOT / name).is_file()))


def sources(*suffixes: str) -> list[Path]:
    return [path for path in tracked() if path.suffix in suffixes]


def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def excused(path: Path) -> bool:
    return str(path) in EXCEPTIONS


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_exceptions_are_few_and_real() -> None:
    assert len(EXCEPTIONS) < 5
    assert [name for name in EXCEPTIONS if not (ROOT / name).exists()] == []
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())


def test_files_are_short() -> None:
    long = {str(path): length_of(path) for path in sources(".rs", ".py", ".pyi") if not excused(path)}
    assert {name: lines for name, lines in long.items() if lines > FILE_LINES_LIMIT} == {}


def length_of(path: Path) -> int:
    text = text_of(path)
    return len(rust_scan.without_inline_tests(text) if path.suffix == ".rs" else text.splitlines())


def test_functions_are_short() -> None:
    long = [
        f"{path}:{line} {name} has {length} lines"
        for path in sources(".rs", ".py")
        for name, line, length, _ in functions_of(path)
        if length > FUNCTION_LINES_LIMIT and not excused(path) and not is_test(path)  # a table of cases is data
    ]
    assert long == []


def test_functions_take_few_parameters() -> None:
    many = [
        f"{path}:{line} {name} takes {parameters}"
        for path in sources(".rs", ".py")
        for name, line, _, parameters in functions_of(path)
        if parameters > PARAMETERS_LIMIT and not excused(path) and not is_test(path)
    ]
    assert many == []


def test_folders_hold_few_files() -> None:
    held = Counter(path.parent for path in sources(".rs", ".py") if not is_test(path))
    assert {str(path): count for path, count in held.items() if count > FOLDER_FILES_LIMIT and not excused(path)} == {}


def is_test(path: Path) -> bool:
    return path.parts[0] == "tests" or path.stem.endswith("_tests") or "tests" in path.parts


def functions_of(path: Path) -> Iterator[rust_scan.Function]:
    yield from rust_scan.functions(text_of(path)) if path.suffix == ".rs" else python_functions(text_of(path))


def python_functions(text: str) -> Iterator[rust_scan.Function]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = sum(item.arg not in ("self", "cls") for item in named)
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1, parameters


def test_the_scanner_sees_what_it_should() -> None:
    sample = """
fn plain(a: u8, b: &'static str) -> Vec<u8> { let brace = '{'; let text = "}{"; r#"{"#; /* { */ }
impl X {
    pub async fn generic<T: Into<String>, F: Fn(u8) -> u8>(&self, t: T, f: F, m: Map<a::B, C>)
    where T: Send,
    { // }
    }
    fn declared(self: &Arc<Self>, x: u8);
}
"""
    assert list(rust_scan.functions(sample)) == [("plain", 2, 1, 2), ("generic", 4, 4, 3)]


# --- files say what they are -----------------------------------------------------------------------------------------


def test_files_open_with_a_header() -> None:
    """A `_tests.rs` file is the end of the file it tests, which has the header."""
    headless = [path for path in sources(".rs", ".py", ".pyi") if not has_header(path)]
    assert [str(path) for path in headless if not path.stem.endswith("_tests")] == []


def has_header(path: Path) -> bool:
    text = text_of(path)
    return text.startswith("//!") if path.suffix == ".rs" else bool(ast.get_docstring(ast.parse(text)))


# --- where things may stand -------------------------------------------------------------------------------------------


def test_unsafe_stands_in_sys_alone() -> None:
    allowed = {Path("native/engine/src/sys.rs")}
    found = {
        path
        for path in sources(".rs")
        if re.search(r"\bunsafe\s*(\{|fn|impl|extern)", rust_scan.blanked(text_of(path)))
    }
    assert {str(path) for path in found - allowed} == set()


def test_one_module_imports_the_extension() -> None:
    importing = [str(path) for path in sources(".py") if path.parts[0] == "src" and imports_native(text_of(path))]
    assert importing == ["src/meshdp/supervise/engine.py"]


def imports_native(text: str) -> bool:
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if any("_native" in name.split(".") for name in [*names, *module.split(".")]):
            return True
    return False


# --- the map ----------------------------------------------------------------------------------------------------------


def test_every_path_a_page_names_exists() -> None:
    known = {str(path) for path in tracked()} | {f"{parent}" for path in tracked() for parent in path.parents}
    named = {page: paths_named_in(text_of(page)) for page in sources(".md")}
    assert named[Path("ARCHITECTURE.md")], "the map names no path"
    lost = {f"{page}: {name}" for page, names in named.items() for name in names if name not in known}
    assert sorted(each for each in lost if not each.partition(": ")[2].startswith(GENERATED)) == []


def paths_named_in(page: str) -> list[str]:
    """What stands in backquotes and begins with a folder of ours; a page may name other paths, too."""
    named = [name.rstrip("/") for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?)`", page)]
    return [name for name in named if name.partition("/")[0] in {path.parts[0] for path in tracked()}]


def test_decisions_are_numbered_in_order_and_listed() -> None:
    """Their own titles, so that the list on the map says what each is about."""
    pages = [path for path in sources(".md") if path.parent == Path("docs/decisions")]
    titles = {page: text_of(page).splitlines()[0].removeprefix("# ") for page in pages}
    numbers = [title.partition(" ")[0] for title in titles.values()]  # with gaps: several people take from ranges
    assert all(re.fullmatch(r"\d{4}", number) for number in numbers)
    assert numbers == sorted(set(numbers))
    assert [str(page) for page, title in titles.items() if not page.name.startswith(title[:4])] == []
    listed = text_of(Path("ARCHITECTURE.md"))
    assert [str(page) for page, title in titles.items() if f"[{title}]({page})" not in listed] == []


def test_every_source_file_is_on_the_map_or_in_its_folder() -> None:
    map_text = text_of(Path("ARCHITECTURE.md"))
    unnamed = [
        str(path)
        for path in sources(".rs", ".py")
        if path.parts[0] in ("native", "initc", "src")
        and not is_test(path)
        and path.name not in ("__init__.py", "lib.rs", "main.rs", "build.rs")
        and not re.search(rf"\b{re.escape(path.stem)}\b", map_text + folder_page(path))
    ]
    assert unnamed == []


def folder_page(path: Path) -> str:
    """What a folder says about itself: its package, crate or module file, declarations included."""
    pages = [path.parent / "__init__.py", path.parent / "lib.rs", path.parent / "main.rs"]
    pages += [path.parent.with_suffix(".rs"), path.parent / "mod.rs", path.parent.parent / "lib.rs"]
    return "\n".join(text_of(page) for page in pages if page in tracked())


GENERATED = ("src/meshdp/bin", "src/meshdp/_native.abi3.so", "bench/results")


# --- safe to publish --------------------------------------------------------------------------------------------------


def test_no_file_names_a_machine() -> None:
    suspicious = re.compile(r"/(?:home|Users)/\w+/|/root/\w|\b(?:[\w-]+\.)+(?:internal|corp|intranet)\b")
    hits = [
        f"{path}:{number}"
        for path in tracked()
        if path.suffix in (".rs", ".py", ".toml", ".md", ".yaml", ".yml", ".json", ".lock", "")
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if suspicious.search(line) and path != Path("tests/unit/test_layout.py")
    ]
    assert hits == []


def test_dependencies_come_from_the_public_registry() -> None:
    found = set(re.findall(r'^source = "(.+)"$', text_of(Path("Cargo.lock")), re.MULTILINE))
    assert found == {"registry+https://github.com/rust-lang/crates.io-index"}
