"""Everything that people read: mails, pages, translations and policies.

    templates.py            the engine: one environment per brand and language
    brands.py               whose name, colour and files   colours.py         that stay readable
    languages.py            catalogues, negotiation, dates
    compiled.py             what this process has compiled already
    files.py                reads the operator's files     faults.py          what can be wrong with them

    mails.py                a `Mail` becomes a message     letters.py         and bytes
    headers.py              what may stand in its head     texts.py           the words of text messages
    sydent_files.py         templates in Sydent's form     sydent_mails.py    and the mails made of them

    page.py                 a page and its headers         pages.py           confirm, results, errors, policies
    privacy_pages.py        the privacy page               account_pages.py   what is held about a Matrix ID
    held.py                 what is held, for people       held_data.py       and for programs
    policies.py             the terms of service           retention.py       what is kept and for how long
    samples.py              values to try every page with

Rule: rendering turns values into text and does nothing else. It opens no socket, reads no clock of its own
and knows nothing of HTTP frameworks; it sits between `domain` and `outbound` in the import order.
"""
