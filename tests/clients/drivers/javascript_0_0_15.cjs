// JavaScript's wavespeed 0.0.15, used as its README shows; nothing but the base URL is changed.
//
//     node javascript_0_0_15.cjs WAY BASE_URL REQUEST
//
// Prints what a user of the client sees, as JSON on the last line. The key is in WAVESPEED_API_KEY.

const fs = require('node:fs');
const { WaveSpeed } = require('wavespeed');

const MODEL = 'wavespeed-ai/flux-control-lora-depth';

const WAYS = {
  // Submit and wait.
  run: (client, request) => client.run(MODEL, request),

  // Submit, wait later, ask once more by the id: "Manual Status Polling Example".
  async create_then_wait(client, request) {
    const prediction = await client.create(MODEL, request);
    await prediction.wait();
    return client.getPrediction(prediction.id);
  },

  // One request and no waiting: this client has no option for it, but sends any field.
  sync: (client, request) => client.create(MODEL, { ...request, enable_sync_mode: true }),

  // Upload the control image's bytes and use the address that comes back.
  async upload_then_run(client, request) {
    const picture = new Blob([fs.readFileSync(request.control_image)], { type: 'image/png' });
    const uploaded = await client.upload(picture, { filename: 'scene.png' });
    return { uploaded, ...(await client.run(MODEL, { ...request, control_image: uploaded })) };
  },

  // Have an address told when the pictures are done.
  run_with_webhook(client, { webhook_url: webhook, ...request }) {
    return client.run(MODEL, request, { webhook });
  },
};

async function main([way, baseUrl, request]) {
  const client = new WaveSpeed(process.env.WAVESPEED_API_KEY, { baseUrl });
  try {
    const { client: _, ...returned } = await WAYS[way](client, JSON.parse(request));
    return { returned };
  } catch (error) {
    return { raised: { class: error.name, message: error.message } };
  }
}

main(process.argv.slice(2)).then((answer) => console.log(`\n${JSON.stringify(answer)}`));
