"""Writes what ansible-playbook tells its callbacks as one JSON object a line, so that the tests can tell it again.

See record.sh in the directory above.
"""

import json
import os

from ansible.plugins.callback import CallbackBase


def plain(value):
    return json.loads(json.dumps(value, default=str))


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "recorder"

    def __init__(self):
        super().__init__()
        self.file = open(os.environ["RECORD_TO"], "w")
        self.ids = {}

    def put(self, kind, **fields):
        print(json.dumps({"event": kind, **fields}), file=self.file, flush=True)

    def task(self, task, handler=None):
        key = str(task._uuid)
        number, known = self.ids.setdefault(key, (len(self.ids) + 1, bool(handler)))
        path = task.get_path() or ":0"
        file, line = path.rsplit(":", 1)
        origin = getattr(task._origin, "col_num", None) if hasattr(task, "_origin") else None
        return {
            "id": number, "title": task.get_name(), "name": task.name or task.action, "action": task.resolved_action or task.action,
            "file": file, "line": int(line), "column": origin or 1, "handler": known, "check": bool(task.check_mode),
        }

    def result(self, kind, verdict, result, ignored=False):
        task = result.task
        delegate = task.delegate_to if task.delegate_to and task.delegate_to != result.host.name else None
        body = plain(dict(result.result))
        looped = bool(task.loop) and "results" in result.result
        self.put(
            kind, verdict=verdict, host=result.host.name, task=self.task(task), delegate=delegate, ignored=ignored,
            looped=looped, result=body, label=str(self._get_item_label(result.result)) if kind == "item" else None,
            verbose_always=body.get("_ansible_verbose_always") is True,
        )

    def v2_playbook_on_start(self, playbook):
        self.put("playbook", path=playbook._file_name)

    def v2_playbook_on_play_start(self, play):
        self.put("play", name=play.get_name(), check=bool(play.check_mode))

    def v2_playbook_on_no_hosts_matched(self):
        self.put("no_hosts_matched")

    def v2_playbook_on_no_hosts_remaining(self):
        self.put("no_hosts_remaining")

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.put("task", task=self.task(task, False))

    def v2_playbook_on_handler_task_start(self, task):
        self.put("task", task=self.task(task, True))

    def v2_runner_on_ok(self, result):
        self.result("result", "changed" if result.result.get("changed") else "ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.result("result", "failed", result, bool(ignore_errors))

    def v2_runner_on_skipped(self, result):
        self.result("result", "skipped", result)

    def v2_runner_on_unreachable(self, result):
        self.result("result", "unreachable", result, bool(result.task.ignore_unreachable))

    def v2_runner_item_on_ok(self, result):
        self.result("item", "changed" if result.result.get("changed") else "ok", result)

    def v2_runner_item_on_failed(self, result):
        self.result("item", "failed", result)

    def v2_runner_item_on_skipped(self, result):
        self.result("item", "skipped", result)

    def v2_runner_retry(self, result):
        left = result.result["retries"] - result.result["attempts"]
        self.put("retry", host=result.host.name, task=self.task(result.task), left=left, result=plain(dict(result.result)))

    def v2_runner_on_async_ok(self, result):
        self.put("async_done", host=result.host.name, job=result.result.get("ansible_job_id"), failed=False)

    def v2_runner_on_async_failed(self, result):
        job = result.result.get("ansible_job_id") or result.result.get("async_result", {}).get("ansible_job_id")
        self.put("async_done", host=result.host.name, job=job, failed=True)

    def v2_runner_on_async_poll(self, result):
        body = result.result
        self.put("async_poll", host=result.host.name, job=body.get("ansible_job_id"), started=bool(body.get("started")), finished=bool(body.get("finished")))

    def v2_playbook_on_notify(self, handler, host):
        self.put("notified", host=str(host), handler=handler.get_name())

    def v2_playbook_on_include(self, included):
        label = self._get_item_label(included._vars)
        self.put("included", what=included._filename, hosts=[host.name for host in included._hosts], item=str(label) if label else None)

    def v2_playbook_on_stats(self, stats):
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        self.put("recap", hosts=hosts)
