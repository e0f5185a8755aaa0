"""Text from people, programs and files within Markdown: the name under which pages know it."""

from bench.core.markdown import plain as plain
