"""From the picture of a page to its lines, their texts and files that other programs open.

clean.py     picture -> upright, even, without specks, borders and rules
locate.py    clean picture -> lines of text
order.py     lines -> columns and reading order
read.py      pages -> lines that a reader of line images has read
write.py     a page that was read -> text, JSON, hOCR, ALTO
draw.py      what each stage found, as pictures
compose.py   pages with known lines, to measure all this on
"""
