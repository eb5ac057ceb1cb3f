"""What other libraries need to be used with this one."""
