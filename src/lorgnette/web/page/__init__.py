"""The page, by Gradio: another door to the server's jobs. Results are fetched by the API's addresses."""
