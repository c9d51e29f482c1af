package main

func unpackers() {}
