"""What a notebook shows: tables, from which nothing of a stranger's is run."""

from rayhaul.job import JobStatus
from rayhaul.wire import ErrorView, JobPage, JobView
from serve_app import examples

JOB = JobView.model_validate(examples.BY_MODEL["JobView"])
HOSTILE = '<img src=x onerror="alert(1)">.bin'


def test_a_job_is_a_table_of_facts() -> None:
    """What is known is shown, what is not is left out."""
    shown = JOB._repr_html_()
    assert shown.startswith("<table>")
    assert shown.endswith("</table>")
    for fact in (JOB.id, "downloading", "1.4 GiB", "40%", "46.0 MiB/s", "19 s", "agent-1"):
        assert f"<td>{fact}</td>" in shown
    assert "error" not in shown


def test_a_page_is_a_table_of_jobs() -> None:
    """One row a job; a page that is not the last one says so."""
    page = JobPage(jobs=[JOB, JOB.model_copy(update={"status": JobStatus.FAILED})], next_cursor=None)
    assert page._repr_html_().count("<tr>") == 3
    assert "next page" not in page._repr_html_()
    assert "next page" in page.model_copy(update={"next_cursor": JOB.id})._repr_html_()


def test_names_and_messages_are_text() -> None:
    """A file name with markup in it, and an error that quotes one."""
    error = ErrorView(code="source_failed", message=HOSTILE, fault="source", retryable=True)
    job = JOB.model_copy(update={"filename": HOSTILE, "url": f"https://files.example/{HOSTILE}", "error": error})
    for shown in (job._repr_html_(), JobPage(jobs=[job], next_cursor=None)._repr_html_()):
        assert "<img" not in shown
        assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;.bin" in shown
