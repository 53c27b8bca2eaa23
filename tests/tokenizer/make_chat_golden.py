#!/usr/bin/env python3
"""Writes tests/tokenizer/golden/chat.json: chat templates in the styles of the usual families, and
what jinja2 makes of them with Hugging Face's settings. Needs `pip install jinja2`.

    python3 tests/tokenizer/make_chat_golden.py
"""
import json
from pathlib import Path

from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUT = Path(__file__).resolve().parent / "golden" / "chat.json"


class Generation(Extension):
    """{% generation %}: prints its body, as apply_chat_template does."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        from jinja2 import nodes
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise TemplateError(message)


ENVIRONMENT = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                            extensions=[Generation, loopcontrols])
ENVIRONMENT.filters["tojson"] = lambda x, ensure_ascii=False, indent=None: json.dumps(
    x, ensure_ascii=ensure_ascii, indent=indent)
ENVIRONMENT.globals["raise_exception"] = raise_exception

FAMILIES = {
    "chatml": """{% for m in messages %}
{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    "chatml_default_system": """{%- if messages[0].role != 'system' -%}
    {{- '<|im_start|>system\\nYou answer briefly.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and loop.first) or message.role == "assistant" %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content | trim ~ '<|im_end|>' ~ '\\n' }}
    {%- elif not loop.first %}
        {{- raise_exception('system must come first, not at ' ~ loop.index0) }}
    {%- else %}
        {{- raise_exception("unknown role " + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "01 Jan 2025" %}
    {%- endif %}
{%- endif %}
{#- The first message may be a system message. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: tools\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate user/assistant") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "thinking": """{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == "user" and message.content is string and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.found = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and thought %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "generation": """{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}
{% endfor %}""",
}

CONVERSATIONS = {
    "question": [("user", "Why?")],
    "answered": [("user", " Why is 2 < 3? "), ("assistant", "  Because.\n")],
    "system": [("system", "Be kind. "), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"),
               ("assistant", "<think>\nhm\n</think>\n\nSee you é 😀")],
    "odd": [("assistant", "first"), ("user", ""), ("system", "late")],
    "unicode": [("user", "\u00a0 你好 \u3000"), ("assistant", "\n\t世界\u2028")],
}

# Small templates for the corners of the language.
PIECES = [
    "a\n{% if true %}\n b\n  {% endif %}\n c\n", "  {{ 1 }}  \n {%- if 1 %} x {% endif -%} \n y",
    "{#- c -#} \n z {# d #}\n e", "x  {%+ if 1 %} y{% endif +%}\nz", "  {% if 1 %}a{% endif %}  \n",
    "{{ 'a\\tb\\'\\\\c\\u00e9\\q' }}", "{{ \"%}\" }}{{ '}}' }}", "{{ {'a': 1, 'b': [1, 2]}['b'][1] }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 + 3 * 4 }} {{ 1 - -1 }}",
    "{{ 'ab' ~ 1 ~ none ~ true }}", "{{ missing }}|{{ missing is defined }}|{{ missing is none }}",
    "{{ 'x' if false }}|{{ 'x' if false else 'y' }}", "{{ [1,2,3][-1] }}{{ [1,2,3][1:]|length }}",
    "{{ 'héllo'[1:3] }}{{ 'héllo'[::-1] }}{{ 'abc'[-2:] }}", "{{ messages|length }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for i in range(5) if i != 2 %}{{ i }}/{{ loop.index }}/{{ loop.length }} {% else %}none{% endfor %}",
    "{% for i in [] %}x{% else %}empty{% endfor %}", "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x %}in {{ 1 + 1 }}{% endset %}[{{ x }}]", "{% for i in range(9) %}{% if i == 3 %}{% continue %}{% elif i > 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{{ 'a' in 'cat' }}{{ 'z' not in ['a'] }}{{ 'k' in {'k': 1} }}", "{{ not true or false and true }}",
    "{{ 'a,b,,c'.split(',')|join('-') }}{{ ' a  b '.split()|length }}", "{{ 'aXbXc'.split('X', 1)[1] }}",
    "{{ '  x '|trim }}|{{ '..x.'.strip('.') }}|{{ 'ab'.upper() }}{{ 'AB'|lower }}{{ 'wORD'|capitalize }}",
    "{{ {'b': 1, 'a': [true, none, 'é\"\\n']}|tojson }}", "{{ {'a': [1, {}], 'c': []}|tojson(indent=4) }}",
    "{{ messages|map(attribute='role')|join(',') }}", "{{ messages|selectattr('content')|list|length }}",
    "{{ messages|rejectattr('role', 'equalto', 'user')|list|length }}", "{{ missing|default('d') }}{{ ''|default('e', true) }}{{ 0|d(5) }}",
    "{{ 1 == true }}", "{{ 'b' > 'a' }}{{ 2 >= 3 }}", "{{ messages[0].missing is defined }}",
    "{{ messages[0]['role'] is string }}{{ messages is iterable }}{{ messages[0] is mapping }}",
    "{% if messages[5] is defined %}y{% else %}n{% endif %}", "{{ [1] + [2] == [1, 2] }}",
    "{{ missing.attribute }}", "{{ none + 1 }}", "{{ unknown_function() }}", "{% for i in none %}{% endfor %}",
    "{{ raise_exception('stop ' ~ 1) }}", "{% for c in 'aé' %}{{ c }}.{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if loop.nextitem is defined else '-' }}{{ loop.revindex }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% if 1 %}{% set y = 5 %}{% endif %}{{ y }}", "line\r\nend\r\n{% if 1 %}\r\nx\r\n{% endif %}\r\n",
    "{{ 'a' 'b' }}", "{{ messages|first|length }}{{ (messages|last).role }}", "{{ 'x'.startswith('x') and 'xy'.endswith(('y')) }}",
    "{{ 'aaa'.replace('a', 'b', 2) }}{{ 'aaa'|replace('a', 'c') }}", "{{ not messages is defined }}{{ messages is not defined }}",
    "{{ 3 is odd }}{{ 3 is in [1, 3] }}{{ true is true }}{{ 1 is true }}{{ 'a' is eq 'a' }}",
    "{{ 'abc'.find('c') }}{{ {'a': none}.get('a') }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.keys()|list|length }}",
]
UNSUPPORTED = [
    "{% macro f() %}{% endmacro %}", "{% include 'x' %}", "{{ x|sort }}", "{{ x is callable }}", "{% raw %}{% endraw %}",
    "{% if 1 %}", "{{ 1", "{% endif %}", "{{ 1 + }}", "{{ 'a }}", "{% for %}{% endfor %}", "{{ (1, 2) }}", "{{ 1.5 }}",
    "{{ a ** 2 }}", "{% set a, b = 1, 2 %}", "{% break %}", "{{ 1 < 2 < 3 }}", "{{ ] }}", "{# open",
]


def main():
    variables = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
    cases = []

    def add(name, source, conversation, prompt):
        messages = [{"role": role, "content": content} for role, content in conversation]
        case = {"name": name, "template": source, "messages": messages, "prompt": prompt}
        try:
            case["text"] = ENVIRONMENT.from_string(source).render(
                messages=messages, add_generation_prompt=prompt, **variables)
        except Exception as error:  # whatever jinja2 refuses, we refuse
            case["error"] = str(error)
        cases.append(case)

    for name, source in FAMILIES.items():
        for key, conversation in CONVERSATIONS.items():
            for prompt in (False, True):
                add(f"{name}/{key}", source, conversation, prompt)
    for number, source in enumerate(PIECES):
        add(f"piece {number}", source, CONVERSATIONS["system"], False)
    lines = ",\n".join(json.dumps(case) for case in cases)
    OUT.write_text('{"cases": [\n' + lines + '\n],\n"unsupported": ' + json.dumps(UNSUPPORTED) + "}\n")
    print(len(cases), "cases,", sum("error" in case for case in cases), "of them errors")


main()
