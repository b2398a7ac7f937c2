"""One self-contained page about a run: `facts` is what was read of its folder, each section makes a part of the page from them, `page`
joins the parts.

Pure: facts in, HTML out. Left to others: reading the folder (`workers.driver.history`), writing the file (`workers.commands.report`).
"""
