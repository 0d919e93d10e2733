#!/usr/bin/env python3
"""Records what ansible-core makes of the templates in this folder.

Run it with a Python that has ansible-core 2.19 when cases are added; the tests themselves need no Python.
    record.py expressions.yml            fills in the results of all cases
    record.py templates                  writes templates/*.out beside templates/*.j2
"""
import json, os, sys, pathlib
os.environ.update(CORPUS_VAR="from env", TZ="UTC", ANSIBLE_DEPRECATION_WARNINGS="0", ANSIBLE_DEVEL_WARNING="0", ANSIBLE_LOCALHOST_WARNING="0")
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible.plugins.loader import init_plugin_loader
from ansible.utils.display import Display
init_plugin_loader()
Display().warning = lambda *a, **k: None
Display().deprecated = lambda *a, **k: None
Display().display = lambda *a, **k: None


def trust(value):
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, list):
        return [trust(item) for item in value]
    if isinstance(value, dict):
        return {key: trust(item) for key, item in value.items()}
    return value


def plain(value):
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, str):
        return str(value)
    return value


def outcome(template, variables):
    templar = Templar(loader=DataLoader(), variables=trust(variables))
    try:
        result = templar.template(trust_as_template(template))
    except Exception as error:
        return "!" + type(error).__name__, str(error)
    if type(result).__name__ == "datetime":
        result = result.isoformat()
    return repr(plain(result)), None


class Literal(str):
    pass


def expressions(path):
    data = yaml.safe_load(open(path))
    variables = data["vars"]
    cases = []
    for case in data["cases"]:
        template = case["template"]
        result, why = outcome(template, variables)
        entry = {"template": template, "result": result}
        if why:
            entry["why"] = why.split("\n")[0][:160]
            entry["result"] = "error"
        cases.append(entry)
    with open(path, "w") as out:
        out.write("# Templates of values with what ansible-core 2.19.14 makes of them (Python's repr); see record.py.\n")
        yaml.safe_dump({"vars": variables, "cases": cases}, out, sort_keys=False, allow_unicode=True, width=10000)


def templates(folder):
    folder = pathlib.Path(folder)
    variables = yaml.safe_load((folder / "vars.yml").read_text())
    from ansible._internal._templating._engine import TemplateEngine, TemplateOptions
    from ansible._internal._templating._jinja_bits import TemplateOverrides
    for path in sorted(folder.glob("*.j2")):
        if path.name.startswith("_"):
            continue
        loader = DataLoader()
        templar = Templar(loader=loader, variables=trust(variables))
        templar = templar.copy_with_new_env(searchpath=[str(folder)], available_variables=trust(variables))
        source = path.read_bytes().decode()
        options = TemplateOptions(escape_backslashes=False, overrides=TemplateOverrides.DEFAULT)
        try:
            result = templar._engine.template(trust_as_template(source), options=options)
            result = "" if result is None else str(result)
        except Exception as error:
            result = "error: " + str(error).split("\n")[0]
        path.with_suffix(".out").write_bytes(result.encode())


if __name__ == "__main__":
    if sys.argv[1].endswith(".yml"):
        expressions(sys.argv[1])
    else:
        templates(sys.argv[1])
