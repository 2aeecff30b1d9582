"""What offline.compare is made of: the files it reads, the figures it draws from them, and how it says them."""
